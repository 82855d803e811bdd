"""IVLP: independent vision and language prompts, the baseline of MaPLe (Khattak et al., CVPR 2023, arXiv:2210.03117).

Depth 0 in one encoder leaves it alone: language-only and vision-only prompting are settings of this method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from clip import CLIP

from .contexts import check_depths, random_prompts, shared_plan
from .method import Context, Method, Needs, Prompts, option
from .rpp import shared_prompts


class IVLP(Method):
    """Prompts (P, D) for each prompted layer of the text and of the vision encoder."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX_TEXT: int = option(2, least=0)
        N_CTX_VISION: int = option(2, least=0)
        PROMPT_DEPTH_TEXT: int = option(9, least=0)
        PROMPT_DEPTH_VISION: int = option(9, least=0)
        CTX_INIT: str = "a photo of a"

    folder = "VLPromptLearner"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        chosen = self.options
        text_depth, vision_depth = chosen.PROMPT_DEPTH_TEXT, chosen.PROMPT_DEPTH_VISION
        check_depths(self.section(), clip, text_depth, vision_depth)
        self.context = Context.first_tokens(chosen.CTX_INIT, chosen.N_CTX_TEXT if text_depth else 0)
        self.text = random_prompts(text_depth, chosen.N_CTX_TEXT, clip.transformer.width)
        if text_depth:
            self.text[0].data = self.context.start(clip)
        self.vision = random_prompts(vision_depth, chosen.N_CTX_VISION, clip.visual.width if vision_depth else 0)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=options.PROMPT_DEPTH_VISION > 0)

    def prompts(self) -> Prompts:
        return Prompts(text=shared_plan(self.text), vision=shared_plan(self.vision))

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """RPP's shared prompts: the same function if they were trained with RESIDUAL query."""
        names = self.published_names()
        return {names.get(ours, ours): rows for ours, rows in shared_prompts(state).items()} or state

    def published_names(self) -> dict[str, str]:
        block = "encoder.transformer.resblocks"
        names = {f"text.{i}": f"text_{block}.{i}.VPT_shallow" for i in range(len(self.text))}
        names |= {f"vision.{i}": f"image_{block}.{i}.VPT_shallow" for i in range(len(self.vision))}
        first = {"text.0": "prompt_learner.ctx", "vision.0": "image_encoder.VPT"}
        return {ours: first.get(ours, theirs) for ours, theirs in names.items()}
