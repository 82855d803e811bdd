"""CoCoOp: Conditional Prompt Learning for Vision-Language Models (Zhou et al., CVPR 2022, arXiv:2203.05557)."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import PromptPlan
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .prompted_clip import Prompts


class ConditionalLearner(nn.Module):
    """v_m(x) = v_m + pi, pi = h_theta(x) (section 3.2): a meta-network shifts the context by the image's feature.

    ctx (P, D) and features (B, E) -> contexts (B, 1, P, D): one per image, the same for all classes.
    """

    conditional = True

    def __init__(self, ctx: Tensor, embed_dim: int):
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        hidden = embed_dim // 16
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(embed_dim, hidden),
                relu=nn.ReLU(inplace=True),
                linear2=nn.Linear(hidden, ctx.shape[1]),
            )
        )

    def forward(self, image_features: Tensor) -> Prompts:
        shift = self.meta_net(image_features)
        return Prompts(text=PromptPlan((self.ctx + shift[:, None])[:, None]))


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    section = "COCOOP"
    defaults: ClassVar = {"N_CTX": 16, "CTX_INIT": "", "PREC": "fp16"}

    def build_learner(self, clip: CLIP) -> nn.Module:
        return ConditionalLearner(self.context(clip), clip.embed_dim)
