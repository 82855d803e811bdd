"""What a method changes in a layer beside its prompts, as data: see ``clip/prompts.py``.

    method      query, key, value                                     output of the layer
    CLIP-LoRA   W + scale B A in place of W; merged for evaluation
    MMA                                                               an adapter of LN1(X) more

Letters: D width, r rank of a change of weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Views = tuple[Tensor, Tensor, Tensor]


def linear(views: Views, weight: Tensor, bias: Tensor) -> Tensor:
    """What query, key and value are made of, (..., D) each, all three perhaps the same -> (..., 3 D)."""
    if views[0] is views[1] and views[1] is views[2]:
        return F.linear(views[0], weight, bias)
    weights, biases = weight.chunk(3), bias.chunk(3)  # (D, D) and (D,) each
    return torch.cat([F.linear(x, w, b) for x, w, b in zip(views, weights, biases)], dim=-1)  # (..., 3 D)


@dataclass(frozen=True, eq=False)
class LowRank:
    """Query, key and value of weights W + scale B A; A reads its input through dropout, drawn for each of the three."""

    down: Tensor  # A, (3, r, D)
    up: Tensor  # B, (3, D, r)
    scale: float
    dropout: float = 0.0  # of 0 in evaluation

    def project(self, views: Views, weight: Tensor, bias: Tensor) -> Tensor:
        """As ``linear``."""
        down, up = self.down.to(views[0].dtype), (self.scale * self.up).to(views[0].dtype)
        added = [F.linear(F.linear(F.dropout(x, self.dropout), a), b) for x, a, b in zip(views, down, up)]
        return linear(views, weight, bias) + torch.cat(added, dim=-1)  # (..., 3 D)

    def merged(self, weight: Tensor) -> NewWeight:
        with torch.autocast(self.up.device.type, enabled=False):  # new weights are kept, and rounded as the old ones
            change = (self.scale * self.up @ self.down).flatten(0, 1)  # (3, D, D) -> (3 D, D)
        return NewWeight((weight.to(change.dtype) + change).to(weight.dtype))


@dataclass(frozen=True, eq=False)
class NewWeight:
    """A weight (3 D, D) in place of a layer's own."""

    weight: Tensor

    def project(self, views: Views, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(views, self.weight, bias)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A small MLP beside a layer: scale W_n relu(... relu(W_1 x + b_1)) + scale b_n."""

    maps: tuple[tuple[Tensor, Tensor], ...]  # weight and bias of each; the first reads and the last makes D numbers
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        for number, (weight, bias) in enumerate(self.maps):
            x = F.linear(F.relu(x) if number else x, weight.to(x.dtype), bias.to(x.dtype))
        return self.scale * x


@dataclass(frozen=True, eq=False)
class LayerChange:
    """Of one layer, for all texts and images alike.

    qkv: in place of the layer's own projections. added: to the layer's output, of LN1 of its residual stream.
    """

    qkv: LowRank | NewWeight | None = None
    added: Adapter | None = None

    @property
    def tensors(self) -> list[Tensor]:
        own = [] if self.qkv is None else [value for value in vars(self.qkv).values() if isinstance(value, Tensor)]
        return own if self.added is None else [*own, *(tensor for pair in self.added.maps for tensor in pair)]

    @property
    def width(self) -> int:
        return self.tensors[0].shape[-1]

    @property
    def is_random(self) -> bool:
        """Whether it is another one each time."""
        return isinstance(self.qkv, LowRank) and self.qkv.dropout > 0

    def merged(self, weight: Tensor) -> LayerChange:
        """The same with what can be made once of the layer's weight (3 D, D)."""
        return replace(self, qkv=self.qkv.merged(weight)) if isinstance(self.qkv, LowRank) else self
