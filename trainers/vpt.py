"""VPT: Visual Prompt Tuning (Jia et al., ECCV 2022, arXiv:2203.12119) for CLIP, shallow (depth 1) or deep."""

from __future__ import annotations

from dataclasses import dataclass

from clip import CLIP

from .contexts import check_depths, random_prompts, shared_plan
from .method import Context, Method, Needs, Prompts, option


class VPT(Method):
    """Prompts (P, D) in layers 1..J of the vision encoder; the text is ``a photo of a <name>.``, encoded once."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX_VISION: int = option(2, least=1)
        PROMPT_DEPTH_VISION: int = option(1, least=1)
        CTX_INIT: str = "a photo of a"  # of published yaml files, whose code never reads it

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        depth = self.options.PROMPT_DEPTH_VISION
        check_depths(self.section(), clip, 0, depth)
        self.context = Context(0, "a photo of a")
        self.vision = random_prompts(depth, self.options.N_CTX_VISION, clip.visual.width)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True)

    def prompts(self) -> Prompts:
        return Prompts(vision=shared_plan(self.vision))

    def published_names(self) -> dict[str, str]:
        block = "image_encoder.transformer.resblocks"
        deeper = {f"vision.{i}": f"{block}.{i}.VPT_shallow" for i in range(1, len(self.vision))}
        return {"vision.0": "image_encoder.VPT", **deeper}
