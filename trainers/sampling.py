"""Which classes a step looks at: all, or POMP's sampled candidates.

Letters: B images, N classes, K candidate classes a step (an image's own and K - 1 sampled ones), U distinct ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MASKED = -1e6  # as published; its exponential is exactly 0
CORRECTION_LOGS = ("log10", "ln")


@dataclass(frozen=True, eq=False)
class AllClasses:
    """Every class is a candidate: the ordinary softmax."""

    label: Tensor
    masked: None = None

    @property
    def target(self) -> Tensor:
        return self.label

    def rows(self, rows: slice) -> AllClasses:
        return AllClasses(self.label[rows])

    def columns(self, logits: Tensor) -> Tensor:
        return logits

    corrected = columns


@dataclass(frozen=True, eq=False)
class SampledClasses:
    """POMP's candidates (arXiv:2304.04704): an image's own class and K - 1 sampled ones, shared by the batch.

    classes: (U,) distinct class indices to be encoded. own: (B,) column of each image's class among them.
    sampled: (K - 1,) columns of the sampled classes; an image's own class may be among them and is masked then.
    shift: (B, 1) in fp64, the correction of an image's negatives; None for none.
    """

    classes: Tensor
    own: Tensor
    sampled: Tensor
    shift: Tensor | None = None

    @property
    def target(self) -> Tensor:
        return torch.zeros_like(self.own)

    def rows(self, rows: slice) -> SampledClasses:
        """The same candidates for some of the images."""
        return replace(self, own=self.own[rows], shift=None if self.shift is None else self.shift[rows])

    @property
    def masked(self) -> Tensor:
        """(B, K): the columns that are an image's own class a second time."""
        return F.pad(self.sampled == self.own[:, None], (1, 0))  # (B, K - 1) -> (B, K)

    def columns(self, logits: Tensor) -> Tensor:
        """(B, U) -> (B, K): the own class first, then the sampled ones."""
        own = logits.gather(1, self.own[:, None])  # (B, 1)
        chosen = torch.cat([own, logits[:, self.sampled]], dim=1)  # (B, K)
        return chosen.masked_fill(self.masked, MASKED)

    @property
    def correction(self) -> Tensor | None:
        """(B, K) in fp64: nothing for the own class."""
        if self.shift is None:
            return None
        return F.pad(self.shift.expand(-1, len(self.sampled)), (1, 0))  # (B, K - 1) -> (B, K)

    def corrected(self, columns: Tensor) -> Tensor:
        """(B, K) as ``columns`` gave them, with the local correction."""
        return columns if self.shift is None else columns + self.correction.to(columns.dtype)


@dataclass(frozen=True)
class Sampling:
    """How candidate classes are drawn: K of N, and the base of the local correction's logarithm ("" for none)."""

    num_candidates: int
    correction_log: str = "log10"

    def check(self, num_classes: int, processes: int = 1) -> None:
        """ValueError if so many candidates cannot be drawn, or are too few for processes that share them."""
        if not 2 <= self.num_candidates <= num_classes + 1:
            raise ValueError(
                f"UPDATE_CLASS_NUM must be 0 or from 2 to {num_classes + 1} (classes + 1), but is {self.num_candidates}"
            )
        if self.num_candidates <= processes:
            raise ValueError(f"{processes} processes cannot share UPDATE_CLASS_NUM {self.num_candidates} candidates")

    @classmethod
    def of(cls, options: Any) -> Sampling | None:
        """From a method's UPDATE_CLASS_NUM (0: no sampling), LOCAL_CORRECTION and CORRECTION_LOG."""
        log = options.CORRECTION_LOG if options.LOCAL_CORRECTION else ""
        return cls(options.UPDATE_CLASS_NUM, log) if options.UPDATE_CLASS_NUM else None


def draw_candidates(sampling: Sampling, label: Tensor, num_classes: int) -> SampledClasses:
    """The candidate classes of a batch with labels (B,). All on the host.

    K - 1 of N classes are drawn uniformly without replacement. The local correction adds log((N - 1) / (K - 1 - r)) to
    every negative, r = 1 if the own class was drawn; its natural logarithm (``ln``) makes the sampled softmax estimate
    the full one, ``log10`` is what the published code and so the published numbers have.
    """
    sampling.check(num_classes)
    drawn = torch.randperm(num_classes)[: sampling.num_candidates - 1]
    classes, columns = torch.cat([label, drawn]).unique(return_inverse=True)  # (U,) and (B + K - 1,)
    own, sampled = columns.split([len(label), len(drawn)])  # (B,) and (K - 1,)
    if not sampling.correction_log:
        return SampledClasses(classes, own, sampled)
    left = len(drawn) - (sampled == own[:, None]).sum(dim=1, keepdim=True)  # (B, 1)
    shift = math.log(num_classes - 1) - left.clamp(min=1).double().log()  # fp64: exact in every dtype of the logits
    shift = shift / math.log(10) if sampling.correction_log == "log10" else shift
    return SampledClasses(classes, own, sampled, shift)
