"""TCP: Textual-based Class-aware Prompt tuning (Yao et al., CVPR 2024, arXiv:2311.18231).

A context for all classes; in a deep layer of the text encoder a prompt per class, made from its hand-written text.

Letters: C classes, P prompt tokens, D width of the text encoder, E joint width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip import CLIP, LayerPrompt, PerClass, PromptPlan, QuickGELU, Texts

from .contexts import check_depths
from .losses import cosine_distance
from .method import Batch, Context, Data, Method, PromptedCLIP, Prompts, Subset, classification_terms, option
from .teacher import check_templates, named_templates


class TCP(Method):
    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX: int = option(4, least=1)
        LAYER: int = option(9, least=2)  # counted from 1: of the text encoder, its context rows become the class's own
        TEXT: str = "{}."  # what stands behind the context
        W: float = option(8.0, least=0)  # weight of the hand-written knowledge
        TEMPLATES: str = "dataset"  # of the hand-written texts: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)
            if "{}" not in self.TEXT:
                raise ValueError(f"{where}.TEXT must be a text with {{}} for the class name, got {self.TEXT!r}")

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        check_depths(self.section(), clip, self.options.LAYER, 0)
        self.ctx = nn.Parameter(Context(self.options.N_CTX).start(clip))  # (P, D)
        self.context = Context(self.options.N_CTX, copies=1)  # texts that have rows of their own in place of it
        hidden = clip.embed_dim // 4
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(clip.embed_dim, hidden),
                relu=QuickGELU(),
                linear2=nn.Linear(hidden, self.ctx.numel()),
            )
        )

    def wording(self, names: Sequence[str], template: str) -> Texts:
        length = self.context.length
        placeholders = "X " * length
        texts = Texts.from_strings([placeholders + self.options.TEXT.format(name) for name in names])
        texts.ids[:, 1 : 1 + length] = -1 - torch.arange(length)
        return texts

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        self.knowledge(classifier)

    def knowledge(self, classifier: PromptedCLIP) -> Tensor:
        """(C, E): unit-norm features of the hand-written texts, encoded once."""
        return classifier.zeroshot(named_templates(classifier, self.options.TEMPLATES))

    def prompts(self, knowledge: Tensor) -> Prompts:
        """Features (C, E) -> the context (P, D), and in one layer T = W2 g(W1 t0 + b1) + b2, (C, P, D)."""
        rows = self.meta_net(knowledge).unflatten(1, self.ctx.shape)  # (C, P, D)
        layers = {self.options.LAYER - 1: LayerPrompt.shared(rows)}
        context = PerClass(self.ctx.expand_as(rows))  # (C, P, D)
        return Prompts(text=PromptPlan(context, layers, made_of=(knowledge, *self.parameters())))

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        return classifier.encode(self.prompts(self.knowledge(classifier)), image, classes)

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """CE + W (1 - mean_c <t_c, t0_c>), as the released code has it."""
        image, text = classifier.features(batch.image)
        terms = classification_terms(classifier.cosine_logits(image, text), batch.label)
        return terms | {"kg_loss": self.options.W * cosine_distance(text, self.knowledge(classifier))}
