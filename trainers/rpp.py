"""RPP: Revisiting Prompt Pretraining of Vision-Language Models (Chen et al. 2024, arXiv:2409.06166).

Prompts for query, key and value are unshared in every prompted layer of both encoders, and the zero-shot
probabilities of a frozen CLIP teacher supervise them besides the labels. What the paper's public descriptions leave
open is an option here; ``docs/method.md`` lists these assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from clip import CLIP, LayerPrompt, PromptPlan

from .contexts import check_depths, random_prompts
from .method import Batch, Context, Data, Method, Needs, PromptedCLIP, Prompts, classification_terms, option
from .sampling import CORRECTION_LOGS, Sampling
from .teacher import ZERO_SHOT_CLIP, TeacherOptions, build_teacher, distillation

VIEWS = {"qkv": ("query", "key", "value"), "kv": ("key", "value"), "shared": ("prompt",)}


class UnsharedPrompts(nn.ModuleDict):
    """Prompts (P, D) of layers 1..J of one encoder, for each view that has its own (``QKV``).

    qkv: P_q, P_k, P_v; kv: P_q := P_k; shared: one for all three. With residual "query" the prompt rows of the residual
    stream are replaced by P_q in every layer; with "carry" they start as P_q of layer 1 and carry on.
    """

    def __init__(self, depth: int, num_tokens: int, width: int, qkv: str, residual: str, first: Tensor | None = None):
        super().__init__({view: random_prompts(depth, num_tokens, width) for view in VIEWS[qkv]})
        self.residual = residual
        if first is not None:
            for prompts in self.values():
                prompts[0].data = first.clone()

    def freeze_unused(self, encoder_layers: int) -> None:
        """Exclude queries that nothing reads: their rows are replaced by the next layer, or nobody attends to them."""
        if "query" not in self:
            return
        queries = self["query"]
        if len(queries) == encoder_layers:
            queries.requires_grad_(False)
        elif self.residual == "query":
            for prompt in list(queries)[:-1]:
                prompt.requires_grad_(False)

    def plan(self) -> PromptPlan:
        """Q = LN1(Rep(X, P_q)) W_q, K = LN1(Rep(X, P_k)) W_k, V = LN1(Rep(X, P_v)) W_v in every prompted layer."""
        own = {view: list(prompts) for view, prompts in self.items()}
        key = own.get("key") or own["prompt"]
        query, value = own.get("query", key), own.get("value", key)
        stays = query if self.residual == "query" else [None] * len(query)
        return PromptPlan(
            query[0], {layer: LayerPrompt(*views) for layer, views in enumerate(zip(query, key, value, stays))}
        )


def shared_prompts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``text.0``, ``vision.0``, ... of a checkpoint of RPP; empty for one of another method. ValueError if query, key
    and value have not one prompt in common."""
    parts = [key.split(".") for key in state]
    views = {view for one in VIEWS.values() for view in one}
    if not all(len(part) == 3 and part[0] in ("text", "vision") and part[1] in views for part in parts):
        return {}
    if own := sorted({view for _, view, _ in parts} - {"prompt"}):
        raise ValueError(
            f"its prompts are RPP's, with some of their own for {' and '.join(own)}, where one shared prompt is wanted:"
            " only those that were trained with TRAINER.RPP.QKV shared can be taken"
        )
    return {f"{encoder}.{layer}": rows for (encoder, _, layer), rows in zip(parts, state.values())}


class RPP(Method):
    @dataclass(frozen=True)
    class Options(Method.Options):
        QKV: str = option("qkv", choices=tuple(VIEWS))
        RESIDUAL: str = option("carry", choices=("carry", "query"))
        N_CTX_TEXT: int = option(4, least=0)
        N_CTX_VISION: int = option(4, least=0)
        PROMPT_DEPTH_TEXT: int = option(9, least=0)
        PROMPT_DEPTH_VISION: int = option(9, least=0)
        CTX_INIT: str = "a photo of a"
        UPDATE_CLASS_NUM: int = option(0, least=0)  # K candidate classes a step, sampled as in POMP; 0: all classes
        LOCAL_CORRECTION: bool = True
        CORRECTION_LOG: str = option("log10", choices=CORRECTION_LOGS)  # as POMP's recipe; ln is what a softmax needs
        LAMBDA: float = option(1.0, least=0)  # weight of the distillation; 0: no teacher
        TEMPERATURE: float = option(1.0, above=0)
        TEACHER: TeacherOptions = ZERO_SHOT_CLIP

    folder = "UnsharedPromptLearner"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        chosen, form = self.options, (self.options.QKV, self.options.RESIDUAL)
        text_depth, vision_depth = chosen.PROMPT_DEPTH_TEXT, chosen.PROMPT_DEPTH_VISION
        check_depths(self.section(), clip, text_depth, vision_depth)
        self.context = Context.first_tokens(chosen.CTX_INIT, chosen.N_CTX_TEXT if text_depth else 0)
        self.text = self.vision = self.teacher = None
        if text_depth:  # a random context is drawn per view, as all other prompts are
            first = self.context.start(clip) if self.context.phrase else None
            self.text = UnsharedPrompts(text_depth, chosen.N_CTX_TEXT, clip.transformer.width, *form, first=first)
            self.text.freeze_unused(clip.transformer.layers)
        if vision_depth:
            self.vision = UnsharedPrompts(vision_depth, chosen.N_CTX_VISION, clip.visual.width, *form)
            self.vision.freeze_unused(clip.visual.transformer.layers)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=options.LAMBDA > 0 or options.PROMPT_DEPTH_VISION > 0, sampling=Sampling.of(options))

    def begin(self, classifier: PromptedCLIP, data: Data | None = None) -> None:
        if self.options.LAMBDA:
            self.teacher = build_teacher(classifier, self.options.TEACHER, self.options.PREC)

    def prompts(self) -> Prompts:
        return Prompts(text=self.text and self.text.plan(), vision=self.vision and self.vision.plan())

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """CE(student, labels) + LAMBDA T^2 KL(teacher || student), over all classes or the sampled ones."""
        options, chosen = self.options, batch.candidates
        logits = chosen.columns(self.logits(classifier, batch.image, batch.classes))
        terms = classification_terms(chosen.corrected(logits), chosen.target)
        if options.LAMBDA:
            if self.teacher is None:  # without a trainer
                self.begin(classifier)
            soft = chosen.columns(self.teacher.logits(batch.image, batch.classes))
            terms["kd_loss"] = options.LAMBDA * distillation(logits, soft, options.TEMPERATURE, chosen.masked)
        return terms
