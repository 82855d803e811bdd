"""IVLP: independent vision and language prompts, the baseline of MaPLe (Khattak et al., CVPR 2023, arXiv:2210.03117).

Depth 0 in one encoder leaves it alone: language-only and vision-only prompting are settings of this method.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY

from .base import DeepPromptTrainer
from .prompted_clip import Prompts, random_prompts, shared_plan


class IndependentLearner(nn.Module):
    """Prompts (P, D) for each prompted layer of the text and of the vision encoder."""

    def __init__(self, text: nn.ParameterList, vision: nn.ParameterList):
        super().__init__()
        self.text, self.vision = text, vision

    def forward(self) -> Prompts:
        return Prompts(text=shared_plan(self.text), vision=shared_plan(self.vision))


@TRAINER_REGISTRY.register()
class IVLP(DeepPromptTrainer):
    section = "IVLP"
    registered_name = "VLPromptLearner"
    defaults: ClassVar = {
        "N_CTX_TEXT": 2,
        "N_CTX_VISION": 2,
        "PROMPT_DEPTH_TEXT": 9,
        "PROMPT_DEPTH_VISION": 9,
        "CTX_INIT": "a photo of a",
        "PREC": "fp16",
    }

    def build_learner(self, clip: CLIP) -> nn.Module:
        text = random_prompts(self.text_depth, self.num_ctx, clip.transformer.width)
        if len(text):
            text[0].data = self.context(clip)
        vision = (
            random_prompts(self.vision_depth, self.options.N_CTX_VISION, clip.visual.width) if self.vision_depth else []
        )
        return IndependentLearner(text, nn.ParameterList(vision))

    def published_names(self) -> dict[str, str]:
        block = "encoder.transformer.resblocks"
        names = {f"text.{i}": f"text_{block}.{i}.VPT_shallow" for i in range(self.text_depth)}
        names |= {f"vision.{i}": f"image_{block}.{i}.VPT_shallow" for i in range(self.vision_depth)}
        first = {"text.0": "prompt_learner.ctx", "vision.0": "image_encoder.VPT"}
        return {ours: first.get(ours, theirs) for ours, theirs in names.items()}
