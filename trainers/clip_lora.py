"""CLIP-LoRA: Low-Rank Few-Shot Adaptation of Vision-Language Models (Zanella, Ben Ayed, CVPRW 2024, arXiv:2405.18541).

Letters: L layers, D width of an encoder, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from clip import CLIP, LayerChange, LowRank, PromptPlan

from .contexts import check_depths
from .method import Context, Method, Needs, Prompts, option

VIEWS = 3  # query, key, value


class LowRankPairs(nn.Module):
    """A and B of query, key and value in every layer of an encoder."""

    def __init__(self, layers: int, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(layers, VIEWS, rank, width).uniform_(-1, 1) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(layers, VIEWS, width, rank))

    def plan(self, scale: float, dropout: float) -> PromptPlan:
        pairs = zip(self.down.unbind(), self.up.unbind())  # (3, r, D) and (3, D, r)
        changes = {layer: LayerChange(LowRank(a, b, scale, dropout)) for layer, (a, b) in enumerate(pairs)}
        return PromptPlan(changes=changes, made_of=(self.down, self.up))


class CLIPLoRA(Method):
    """W + ALPHA/sqrt(r) B A in place of W, with B = 0 at first, for the weights W of query, key and value."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        RANK: int = option(2, least=1)
        ALPHA: float = option(1.0, above=0)
        DROPOUT: float = option(0.25, least=0)  # of what A reads, in training
        ENCODER: str = option("both", choices=("both", "text", "vision"))

        def check(self, where: str) -> None:
            if self.DROPOUT >= 1:
                raise ValueError(f"{where}.DROPOUT must be less than 1, but is {self.DROPOUT}")

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.context, rank = Context(0, "a photo of a"), self.options.RANK
        self.text = self.vision = None
        if self.options.ENCODER != "vision":
            self.text = LowRankPairs(clip.transformer.layers, clip.transformer.width, rank)
        if self.options.ENCODER != "text":
            check_depths(self.section(), clip, 0, 1)
            self.vision = LowRankPairs(clip.visual.transformer.layers, clip.visual.width, rank)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=options.ENCODER != "text")

    def prompts(self) -> Prompts:
        form = (self.options.ALPHA / math.sqrt(self.options.RANK), self.options.DROPOUT if self.training else 0.0)
        return Prompts(*(pairs and pairs.plan(*form) for pairs in (self.text, self.vision)))
