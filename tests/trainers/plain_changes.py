"""Logits of methods that change the layers of both encoders; see ``plain.py``."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from benchmarks.naive import encode_image, encode_text
from clip.model import CLIP

from .plain import PHRASE, Case, State, class_ids, cosine_logits


def low_rank_clip(clip: CLIP, state: State, scale: float) -> CLIP:
    """A copy whose query, key and value weights are W + scale B A, each a product of its own."""
    clip = copy.deepcopy(clip)
    for encoder, tower in (("text", clip.transformer), ("vision", clip.visual.transformer)):
        if f"{encoder}.down" in state:
            for block, down, up in zip(tower.resblocks, state[f"{encoder}.down"], state[f"{encoder}.up"]):
                pieces = zip(block.attn.in_proj_weight.chunk(3), down, up)
                weight = torch.cat([own + scale * b @ a for own, a, b in pieces])
                del block.attn.in_proj_weight
                block.attn.in_proj_weight = weight
    return clip


def cliplora(case: Case, state: State, image: Tensor) -> Tensor:
    """Scale ALPHA / sqrt(r)."""
    clip = low_rank_clip(case.clip, state, case.options.ALPHA / case.options.RANK**0.5)
    return cosine_logits(clip, encode_image(clip, image), encode_text(clip, class_ids(case.names, 0, PHRASE)))
