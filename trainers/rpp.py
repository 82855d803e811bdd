"""RPP: Revisiting Prompt Pretraining of Vision-Language Models (Chen et al. 2024, arXiv:2409.06166).

Prompts for query, key and value are unshared in every prompted layer of both encoders, and the zero-shot
probabilities of a frozen CLIP teacher supervise them besides the labels. What the paper's public descriptions leave
open is an option here; ``docs/method.md`` lists these assumptions.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import LayerPrompt, PromptPlan
from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from .base import DeepPromptTrainer, classification_terms
from .losses import candidates, check_choice, check_numbers, distillation
from .prompted_clip import Prompts, random_prompts
from .teacher import build_teacher

VIEWS = {"qkv": ("query", "key", "value"), "kv": ("key", "value"), "shared": ("prompt",)}


class UnsharedPrompts(nn.ModuleDict):
    """Prompts (P, D) of layers 1..J of one encoder, for each view that has its own (``TRAINER.RPP.QKV``).

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


class UnsharedLearner(nn.Module):
    def __init__(self, text: UnsharedPrompts | None, vision: UnsharedPrompts | None):
        super().__init__()
        self.text, self.vision = text, vision

    def forward(self) -> Prompts:
        return Prompts(text=self.text and self.text.plan(), vision=self.vision and self.vision.plan())


@TRAINER_REGISTRY.register()
class RPP(DeepPromptTrainer):
    section = "RPP"
    labels_stay_on_host = True
    registered_name = "UnsharedPromptLearner"
    defaults: ClassVar = {
        "QKV": "qkv",  # qkv | kv | shared
        "RESIDUAL": "carry",  # carry | query
        "N_CTX_TEXT": 4,
        "N_CTX_VISION": 4,
        "PROMPT_DEPTH_TEXT": 9,
        "PROMPT_DEPTH_VISION": 9,
        "CTX_INIT": "a photo of a",
        "UPDATE_CLASS_NUM": 0,  # K candidate classes a step, sampled as in POMP; 0: all classes
        "LOCAL_CORRECTION": True,
        "CORRECTION_LOG": "log10",  # as POMP's recipe; ln is what the softmax needs
        "LAMBDA": 1.0,
        "TEMPERATURE": 1.0,
        "TEACHER": {
            "BACKBONE": "",  # empty: the student's
            "PATH": "",
            "TEMPLATES": "a photo of a {}.",  # a template, dataset (the set's own) or ensemble
        },
        "PREC": "fp16",
    }

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if cfg.DATALOADER.CACHE_FEATURES:
            name = type(self).__name__
            raise ValueError(f"DATALOADER.CACHE_FEATURES does not work with {name}: its teacher looks at the images")
        options = cfg.TRAINER[self.section]
        check_choice(options, QKV=(*VIEWS,), RESIDUAL=("carry", "query"), CORRECTION_LOG=("log10", "ln"))
        check_numbers(self.section, options, positive=("TEMPERATURE",), from_zero=("LAMBDA",))

    def build_learner(self, clip: CLIP) -> nn.Module:
        options, form = self.options, (self.options.QKV, self.options.RESIDUAL)
        text = vision = None
        if self.text_depth:
            context = self.context(clip)
            first = context if self.phrase else None  # a random context is drawn per view, as all other prompts are
            text = UnsharedPrompts(self.text_depth, self.num_ctx, clip.transformer.width, *form, first=first)
            text.freeze_unused(clip.transformer.layers)
        if self.vision_depth:
            vision = UnsharedPrompts(self.vision_depth, options.N_CTX_VISION, clip.visual.width, *form)
            vision.freeze_unused(clip.visual.transformer.layers)
        return UnsharedLearner(text, vision)

    def build_model(self) -> None:
        super().build_model()
        if self.options.LAMBDA:
            self.teacher = build_teacher(self, self.options.TEACHER)

    def compute_loss(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """CE(student, labels) + LAMBDA T^2 KL(teacher || student), over all classes or the sampled ones."""
        options = self.options
        chosen, texts = self.model.to_device(candidates(options, label, self.num_classes))
        logits = chosen.columns(self.model(image, chosen.classes, texts))
        terms = classification_terms(chosen.corrected(logits), chosen.target)
        if options.LAMBDA:
            soft = chosen.columns(self.teacher.logits(image, chosen.classes))
            terms["kd_loss"] = options.LAMBDA * distillation(logits, soft, options.TEMPERATURE, chosen.masked)
        return terms
