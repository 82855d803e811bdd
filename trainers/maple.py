"""MaPLe: Multi-modal Prompt Learning (Khattak et al., CVPR 2023, arXiv:2210.03117).

Deep text prompts P_1..P_J, and vision prompts that are functions of them: P~_k = F_k(P_k) (eq. 8 and section 3.3).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from clip import CLIP

from .contexts import check_depths, random_prompts, shared_plan
from .method import Context, Method, Needs, Prompts, option


class MaPLe(Method):
    """Text prompts (P, Dt) per layer; a linear map Dt -> Dv couples each to the vision encoder's layer.

    The names are those of the published files. As there, the deeper maps start as copies of one another.
    """

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX: int = option(2, least=1)
        PROMPT_DEPTH: int = option(9, least=1)
        CTX_INIT: str = "a photo of a"
        UNIFIED: bool = False  # one map for all layers (MaPLe-dagger of the paper)

    folder = "MultiModalPromptLearner"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        depth, text_width = self.options.PROMPT_DEPTH, clip.transformer.width
        check_depths(self.section(), clip, depth, depth)
        self.context = Context.first_tokens(self.options.CTX_INIT, self.options.N_CTX)
        self.ctx = nn.Parameter(self.context.start(clip))
        self.proj = nn.Linear(text_width, clip.visual.width)
        self.compound_prompts_text = random_prompts(depth - 1, self.options.N_CTX, text_width)
        couple = nn.Linear(text_width, clip.visual.width)
        self.compound_prompt_projections = nn.ModuleList(
            () if self.options.UNIFIED else (copy.deepcopy(couple) for _ in range(depth - 1))
        )

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True)

    def prompts(self) -> Prompts:
        text = [self.ctx, *self.compound_prompts_text]
        deeper = self.compound_prompt_projections or [self.proj] * len(self.compound_prompts_text)
        vision = [couple(prompt) for couple, prompt in zip([self.proj, *deeper], text)]
        return Prompts(text=shared_plan(text), vision=shared_plan(vision))

    def published_names(self) -> dict[str, str]:
        return {name: f"prompt_learner.{name}" for name, _ in self.named_parameters()}
