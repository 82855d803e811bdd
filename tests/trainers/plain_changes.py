"""Logits of methods that change the layers of both encoders; see ``plain.py``."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.naive import encode_image, encode_text
from clip.changes import Adapter, LayerChange
from clip.model import CLIP
from clip.prompts import PromptPlan

from .plain import PHRASE, Case, State, Terms, class_ids, cosine_logits


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


def adapters(state: State, encoder: str, scale: float) -> PromptPlan:
    """Down, shared, up of each layer, counted from 1."""
    changes = {}
    for number in sorted({int(key.split(".")[1]) for key in state}):
        own, shared = f"{encoder}_adapter.{number}", f"shared_adapter.{number}.0"
        names = (f"{own}.down.0", shared, f"{own}.up")
        maps = tuple((state[f"{name}.weight"], state[f"{name}.bias"]) for name in names)
        changes[number - 1] = LayerChange(added=Adapter(maps, scale))
    return PromptPlan(changes=changes)


def mma(case: Case, state: State, image: Tensor) -> Tensor:
    clip, scale = case.clip, case.options.ADAPTER_SCALE
    text, vision = (adapters(state, encoder, scale) for encoder in ("text", "visual"))
    ids = class_ids(case.names, 0, case.options.TEXT_CTX_INIT)
    return cosine_logits(clip, encode_image(clip, image, vision), encode_text(clip, ids, text))


def mma_gradients(case: Case, terms: Terms, learned: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those that the adapters would have at scale 1."""
    gradients = torch.autograd.grad(sum(terms.values()), learned)
    return [gradient / case.options.ADAPTER_SCALE for gradient in gradients]
