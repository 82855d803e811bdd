"""Prompts as data: what an encoder is told to put into its prompt rows, layer by layer.

One notation for every method (style: B images, C classes, P prompt tokens, D encoder width):

    method          text plan                        vision plan
    CoOp            input                            none
    CoCoOp          input, one per image             none
    VPT             none                             input, layers 1..J-1 shared
    IVLP, MaPLe     input, layers 1..J-1 shared      the same
    RPP             input, layers 0..J-1 unshared    the same
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerPrompt:
    """What one layer reads in its prompt rows; each tensor is (P, D), or (B, P, D) for one prompt per image.

    query, key, value: rows that enter LN1 and then the query, key and value projection. One tensor three times is the
        shared prompt of VPT, IVLP and MaPLe; three tensors are RPP's unshared prompts.
    residual: rows that replace the residual stream, or None to let the stream's own rows carry on.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    residual: Tensor | None = None

    @classmethod
    def shared(cls, rows: Tensor) -> LayerPrompt:
        """One prompt for query, key, value and residual: the rows are simply replaced."""
        return cls(rows, rows, rows, rows)

    @property
    def views(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        return self.query, self.key, self.value, self.residual

    @property
    def is_shared(self) -> bool:
        return self.query is self.key and self.key is self.value

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerPrompt:
        """Apply ``function`` to every view (once to a tensor that is used several times)."""
        different = {id(t): t for t in self.views if t is not None}
        done = {key: function(t) for key, t in different.items()}
        return LayerPrompt(*(done.get(id(t)) for t in self.views))


@dataclass(frozen=True)
class PromptPlan:
    """Where prompts act in one encoder.

    input: rows at the encoder's entrance, raw: the text encoder adds the positional embedding, the vision encoder
        applies ``ln_pre``. Text: the context; (P, D) shared, (C, P, D) one per class, (B, 1, P, D) one per image.
        Vision: appended behind the patches; (P, D), or (B, P, D) one per image.
    layers: prompts of layer l = 0..L-1. Those of layer 0 are raw like ``input``; deeper ones are used as they are.
    """

    input: Tensor
    layers: Mapping[int, LayerPrompt] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return self.input.shape[-2]

    @property
    def per_image(self) -> bool:
        """Whether texts differ between images: the context is (B, 1, P, D)."""
        return self.input.dim() == 4

    def select(self, classes: Tensor) -> PromptPlan:
        """For the texts of some classes, (K,) indices: of contexts (C, P, D), one per class, theirs."""
        if self.input.dim() != 3:
            return self
        return PromptPlan(self.input[classes.to(self.input.device)], self.layers)

    def versions(self) -> tuple[tuple[int, int], ...]:
        """Identity and version of every tensor: equal for plans that hold the same tensors with the same numbers."""
        rows = [self.input, *(view for p in self.layers.values() for view in p.views if view is not None)]
        return tuple((id(t), 0 if t.is_inference() else t._version) for t in rows)

    def check(self, width: int, depth: int) -> None:
        """Raise ValueError for a plan that an encoder of ``width`` with ``depth`` layers cannot take."""
        rows = [self.input, *(view for p in self.layers.values() for view in p.views if view is not None)]
        widths = {t.shape[-1] for t in rows}
        if widths != {width}:
            raise ValueError(f"Prompts of width {sorted(widths)} do not fit an encoder of width {width}")
        if self.layers and max(self.layers) >= depth:
            raise ValueError(f"Prompt depth {max(self.layers) + 1} is larger than the encoder's {depth} layers")
        if any(t.shape[-2] != self.length for t in rows):
            raise ValueError(f"Deep prompts must have the input's length {self.length}")


def raw_first_layer(layers: Mapping[int, LayerPrompt], enter: Callable[[Tensor], Tensor]) -> Mapping[int, LayerPrompt]:
    """Pass the raw prompts of layer 0, if any, through the encoder's entrance (positions or ``ln_pre``)."""
    return {**layers, 0: layers[0].map(enter)} if 0 in layers else layers


def write_slots(x: Tensor, start: int, rows: Tensor) -> Tensor:
    """Rep(X, P): ``x`` (B, T, D) with its rows start..start+P-1 replaced by ``rows`` (P, D) or (B, P, D).

    If ``x`` ends at ``start``, the rows are appended. The rows take x's dtype: prompts stay fp32 outside.
    """
    rows = rows.to(x.dtype).expand(x.shape[0], -1, -1)
    return torch.cat([x[:, :start], rows, x[:, start + rows.shape[1] :]], dim=1)
