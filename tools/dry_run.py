"""One rank's work without the other ranks: for plans of runs on more GPUs than there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dassl.ranks import Ranks, Result


class FirstOf(Ranks):
    """The first of ``size`` ranks; what the others would send is made up of what this one has, so numbers mean nothing.

    Its work is that of a rank, images, texts and memory, but for the messages. ``classes``: how many there are.
    """

    classes = 1

    def all_rows(self, mine: Tensor, count: int) -> Tensor:
        """(share, E) -> (C, E)."""
        return mine.repeat_interleave(self.size, dim=0)[:count]

    def average(self, tensors: Sequence[Tensor]) -> None: ...

    def join(self, mine: Tensor, most: int) -> tuple[Tensor, slice]:
        """Labels (n,) -> (N n,): the others have other classes, as often repeated among views."""
        shifts = torch.randint(self.classes, (self.size - 1, 1))
        return torch.cat([mine, ((mine + shifts) % self.classes).flatten()]), slice(0, len(mine))

    def gather(self, value: Result) -> list[Result]:
        return [value] * self.size

    def on_first(self, work: Callable[[], Result]) -> Result:
        return work()

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def check_same(self, facts: dict[str, Any]) -> None: ...
