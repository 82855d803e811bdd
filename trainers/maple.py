"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023, arXiv:2210.03117).

Deep text prompts P_1..P_J, and vision prompts that are functions of them: P~_k = F_k(P_k) (eq. 8 and section 3.3).
"""

from __future__ import annotations

import copy
from typing import ClassVar

from torch import Tensor, nn

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY

from .base import DeepPromptTrainer
from .prompted_clip import Prompts, random_prompts, shared_plan


class CoupledLearner(nn.Module):
    """Text prompts (P, Dt) per layer; a linear map Dt -> Dv couples each to the vision encoder's layer.

    The names are those of the published files. As there, the deeper maps start as copies of one another.
    ``unified``: one map for all layers (MaPLe-dagger of the paper).
    """

    def __init__(self, ctx: Tensor, depth: int, vision_width: int, unified: bool = False):
        super().__init__()
        num_tokens, text_width = ctx.shape
        self.ctx = nn.Parameter(ctx)
        self.proj = nn.Linear(text_width, vision_width)
        self.compound_prompts_text = random_prompts(depth - 1, num_tokens, text_width)
        couple = nn.Linear(text_width, vision_width)
        self.compound_prompt_projections = nn.ModuleList(
            () if unified else (copy.deepcopy(couple) for _ in range(depth - 1))
        )

    def forward(self) -> Prompts:
        text = [self.ctx, *self.compound_prompts_text]
        deeper = self.compound_prompt_projections or [self.proj] * len(self.compound_prompts_text)
        vision = [couple(prompt) for couple, prompt in zip([self.proj, *deeper], text)]
        return Prompts(text=shared_plan(text), vision=shared_plan(vision))


@TRAINER_REGISTRY.register()
class MaPLe(DeepPromptTrainer):
    section = "MAPLE"
    registered_name = "MultiModalPromptLearner"
    defaults: ClassVar = {
        "N_CTX": 2,
        "PROMPT_DEPTH": 9,
        "CTX_INIT": "a photo of a",
        "UNIFIED": False,
        "PREC": "fp16",
    }

    @property
    def num_ctx(self) -> int:
        return self.options.N_CTX

    @property
    def text_depth(self) -> int:
        return self.options.PROMPT_DEPTH

    vision_depth = text_depth

    def build_learner(self, clip: CLIP) -> nn.Module:
        return CoupledLearner(self.context(clip), self.text_depth, clip.visual.width, self.options.UNIFIED)

    def published_names(self) -> dict[str, str]:
        depth, unified = self.text_depth, self.options.UNIFIED
        maps = ["proj", *(f"compound_prompt_projections.{i}" for i in range(0 if unified else depth - 1))]
        names = ["ctx", *(f"compound_prompts_text.{i}" for i in range(depth - 1))]
        names += [f"{m}.{part}" for m in maps for part in ("weight", "bias")]
        return {name: f"prompt_learner.{name}" for name in names}
