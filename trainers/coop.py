"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022, arXiv:2109.01134)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import PromptPlan
from clip.text import Texts
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .prompted_clip import Prompts, initial_context


class ContextLearner(nn.Module):
    """One context for all classes, (P, D), or one per class, (C, P, D): eq. 2 and section 3.2 of the paper."""

    def __init__(self, ctx: Tensor):
        super().__init__()
        self.ctx = nn.Parameter(ctx)

    def forward(self) -> Prompts:
        return Prompts(text=PromptPlan(self.ctx))


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    section = "COOP"
    defaults: ClassVar = {"N_CTX": 16, "CSC": False, "CTX_INIT": "", "CLASS_TOKEN_POSITION": "end", "PREC": "fp16"}

    def wording(self, names: Sequence[str]) -> Texts:
        return Texts.from_names(names, self.phrase, self.num_ctx, self.options.CLASS_TOKEN_POSITION)

    def build_learner(self, clip: CLIP) -> nn.Module:
        if not self.options.CSC or self.phrase:  # as published: a phrase makes the context generic
            return ContextLearner(self.context(clip))
        print("Initializing class-specific contexts")
        classes = len(self.classnames)
        return ContextLearner(initial_context(clip, "", classes * self.num_ctx).unflatten(0, (classes, self.num_ctx)))
