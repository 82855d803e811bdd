"""CoOp: Learning to Prompt for Vision-Language Models (Zhou et al., IJCV 2022, arXiv:2109.01134)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from clip import CLIP, PerClass, PromptPlan
from clip.text import CLASS_TOKEN_POSITIONS

from .method import Context, Method, Prompts, option


class CoOp(Method):
    """One context for all classes, (P, D), or one per class, (C, P, D): eq. 2 and section 3.2 of the paper."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_CTX: int = option(16, least=1)
        CSC: bool = False  # a context per class; as published, CTX_INIT makes it generic
        CTX_INIT: str = ""  # words to start from; they decide the number of tokens
        CLASS_TOKEN_POSITION: str = option("end", choices=CLASS_TOKEN_POSITIONS)

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        chosen, position = self.options, self.options.CLASS_TOKEN_POSITION
        if chosen.CSC and not (num_classes or chosen.CTX_INIT):
            raise ValueError(f"{self.section()}.CSC, a context per class, needs the number of classes")
        self.context = Context.of_phrase(chosen.CTX_INIT, chosen.N_CTX, position, num_classes if chosen.CSC else 0)
        self.ctx = nn.Parameter(self.context.start(clip))

    def prompts(self) -> Prompts:
        return Prompts(text=PromptPlan(PerClass(self.ctx) if self.context.copies else self.ctx))
