"""Prompts as data: what an encoder is told to put into its prompt rows, layer by layer.

One notation for every method:

    method          text plan                        vision plan
    CoOp            input, or one per class          none
    CoCoOp          input, one per image             none
    VPT             none                             input, layers 1..J-1 shared
    IVLP, MaPLe     input, layers 1..J-1 shared      the same
    TCP             input and one layer, per class   none
    RPP             input, layers 0..J-1 unshared    the same
    MMRL            layers l..L-1, inserted          the same
    CLIP-LoRA, MMA  changes of layers                the same

Letters: B images, C classes, K classes that are picked, S context slots, T rows, P prompt tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from .changes import LayerChange


@dataclass(frozen=True, eq=False)
class InputRows:
    """Prompt rows at an encoder's entrance. Whose they are is their type; ``axes`` their shape."""

    rows: Tensor
    axes: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.rows.dim() != len(self.axes.split(", ")):
            raise ValueError(
                f"{type(self).__name__} takes prompts of shape ({self.axes}), but got {tuple(self.rows.shape)}; prompts"
                " (C, P, D) of C classes are PerClass(prompts), and (B, P, D) of B images PerImage(prompts)"
            )

    def at(self, vectors: Tensor, classes: Tensor | None) -> Tensor:
        """What stands in context slots, (1 or B, S, D): vector ``vectors`` (S,), of class ``classes`` (S,)."""
        raise NotImplementedError

    def select(self, classes: Tensor) -> InputRows:
        """For some classes, (K,) indices."""
        return self


class ForAll(InputRows):
    """(P, D), for all texts or all images."""

    axes = "P, D"

    def at(self, vectors: Tensor, classes: Tensor | None) -> Tensor:
        return self.rows[vectors][None]  # (1, S, D)


class PerClass(InputRows):
    """(C, P, D), a context of its own for each class."""

    axes = "C, P, D"

    def at(self, vectors: Tensor, classes: Tensor | None) -> Tensor:
        return self.rows[classes, vectors][None]  # (1, S, D)

    def select(self, classes: Tensor) -> PerClass:
        return PerClass(self.rows[classes.to(self.rows.device)])  # (K, P, D)


class PerImage(InputRows):
    """(B, P, D), for each image its own: every image then has texts, or prompt rows, of its own."""

    axes = "B, P, D"

    def at(self, vectors: Tensor, classes: Tensor | None) -> Tensor:
        return self.rows[:, vectors]  # (B, S, D)


@dataclass(frozen=True, eq=False)
class LayerPrompt:
    """What one layer reads in its prompt rows; each tensor is (P, D), or (B, P, D) for one prompt per image, and
    (C, P, D) for one per class where the input is ``PerClass`` too.

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
    def length(self) -> int:
        return self.query.shape[-2]

    @property
    def is_shared(self) -> bool:
        return self.query is self.key and self.key is self.value

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerPrompt:
        """Apply ``function`` to every view (once to a tensor that is used several times)."""
        different = {id(t): t for t in self.views if t is not None}
        done = {key: function(t) for key, t in different.items()}
        return LayerPrompt(*(done.get(id(t)) for t in self.views))


@dataclass(frozen=True, eq=False)
class PromptPlan:
    """Where prompts, and what else a method changes, act in one encoder.

    input: rows at the encoder's entrance, raw: the text encoder adds the positional embedding, the vision encoder
        applies ``ln_pre``. Text: the context; vision: appended behind the patches. A bare tensor (P, D) is ``ForAll``.
    layers: prompts of layer l = 0..L-1. Those of layer 0 are raw like ``input``; deeper ones are used as they are.
        Without any ``input`` (P = 0) they are *inserted* where the first of them stands: see ``inserted``.
    changes: of layer l itself.
    made_of: tensors that decide all others, where those are computed anew whenever they are wanted.
    """

    input: InputRows = field(default_factory=lambda: ForAll(torch.empty(0, 0)))
    layers: Mapping[int, LayerPrompt] = field(default_factory=dict)
    changes: Mapping[int, LayerChange] = field(default_factory=dict)
    made_of: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.input, Tensor):
            object.__setattr__(self, "input", ForAll(self.input))

    @classmethod
    def inserted(cls, rows: Mapping[int, Tensor], made_of: tuple[Tensor, ...] = ()) -> PromptPlan:
        """Rows (P, D) that the encoder has from the first of these layers on, used as they are; every further layer
        replaces them. They stand behind the first row of a text, and behind the patches of an image, where order does
        not matter."""
        empty = next(iter(rows.values()))[:0]  # (0, D)
        return cls(empty, {layer: LayerPrompt.shared(own) for layer, own in rows.items()}, made_of=made_of)

    @property
    def length(self) -> int:
        return self.input.rows.shape[-2]

    @property
    def entry(self) -> int | None:
        """The layer that inserts rows, if there is one."""
        first = min(self.layers, default=None)
        return None if self.length or first is None or not self.layers[first].length else first

    @property
    def deep_length(self) -> int:
        """Prompt rows of the last layer: those of the input, or the inserted ones."""
        return self.length if self.entry is None else self.layers[self.entry].length

    @property
    def per_image(self) -> bool:
        """Whether texts differ between images."""
        return isinstance(self.input, PerImage)

    @property
    def is_random(self) -> bool:
        """Whether it is another one each time, by dropout."""
        return any(change.is_random for change in self.changes.values())

    def select(self, classes: Tensor) -> PromptPlan:
        """For the texts of some classes, (K,) indices: of prompts that are one per class, theirs."""
        layers = self.layers
        if isinstance(self.input, PerClass):
            layers = {layer: prompt.map(lambda rows: rows[classes.to(rows.device)]) for layer, prompt in layers.items()}
        return replace(self, input=self.input.select(classes), layers=layers)

    @property
    def prompts(self) -> list[Tensor]:
        """All prompts, each as often as it is used."""
        views = (view for prompt in self.layers.values() for view in prompt.views if view is not None)
        return [self.input.rows, *views]

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, each as often as it is used."""
        return [*self.prompts, *(tensor for change in self.changes.values() for tensor in change.tensors)]

    def versions(self) -> tuple[tuple[int, int], ...]:
        """Identity and version of every tensor: equal for plans that hold the same tensors with the same numbers."""
        return tuple((id(t), 0 if t.is_inference() else t._version) for t in self.made_of or self.tensors)

    def check(self, width: int, depth: int) -> None:
        """Raise ValueError for a plan that an encoder of ``width`` with ``depth`` layers cannot take."""
        widths = {t.shape[-1] for t in self.prompts if t.shape != (0, 0)}
        widths |= {change.width for change in self.changes.values()}
        if widths - {width}:
            raise ValueError(f"Prompts of width {sorted(widths)} do not fit an encoder of width {width}")
        if (deepest := max([*self.layers, *self.changes], default=0)) >= depth:
            raise ValueError(f"Prompt depth {deepest + 1} is larger than the encoder's {depth} layers")
        if self.entry is not None and self.layers[self.entry].residual is None:
            raise ValueError("Prompts without an input are inserted, so their first layer needs a residual")
        if any(t.shape[-2] != self.deep_length for t in self.prompts[1:]):
            raise ValueError(f"Deep prompts must have the input's length {self.deep_length}")


def raw_first_layer(plan: PromptPlan, enter: Callable[[Tensor], Tensor]) -> Mapping[int, LayerPrompt]:
    """The layers, raw prompts of layer 0, if any, passed through the encoder's entrance (positions or ``ln_pre``)."""
    layers = plan.layers
    return {**layers, 0: layers[0].map(enter)} if 0 in layers and plan.length else layers


def residual_stream(x: Tensor, prompt: LayerPrompt | None, start: int) -> Tensor:
    """R of a layer, (B, T, D): ``x``, its prompt rows replaced if the prompt has some for the residual stream."""
    return x if prompt is None or prompt.residual is None else write_slots(x, start, prompt.residual)


def write_slots(x: Tensor, start: int, rows: Tensor) -> Tensor:
    """Rep(X, P): ``x`` (B, T, D) with its rows start..start+P-1 replaced by ``rows`` (P, D) or (B, P, D).

    If ``x`` ends at ``start``, the rows are appended. The rows take x's dtype: prompts stay fp32 outside.
    """
    rows = rows.to(x.dtype).expand(len(x), -1, -1)  # (B, P, D)
    return torch.cat([x[:, :start], rows, x[:, start + rows.shape[1] :]], dim=1)  # (B, T, D), or (B, T + P, D)


def insert_rows(x: Tensor, start: int, rows: Tensor) -> Tensor:
    """``x`` (B, T, D) with ``rows`` (P, D) or (B, P, D) in front of its row ``start``."""
    rows = rows.to(x.dtype).expand(len(x), -1, -1)  # (B, P, D)
    return torch.cat([x[:, :start], rows, x[:, start:]], dim=1)  # (B, T + P, D)
