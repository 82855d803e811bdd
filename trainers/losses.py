"""Which classes a step looks at (POMP's sampling), and distillation from a teacher (RPP).

Letters: B images, N classes, K candidate classes a step (an image's own and K - 1 sampled ones), U distinct ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dassl.config import CfgNode

MASKED = -1e6  # as published; its exponential is exactly 0


@dataclass(frozen=True)
class AllClasses:
    """Every class is a candidate: the ordinary softmax."""

    label: Tensor
    classes: None = None
    correction: float = 0.0

    @property
    def target(self) -> Tensor:
        return self.label

    def columns(self, logits: Tensor) -> Tensor:
        return logits


@dataclass(frozen=True)
class SampledClasses:
    """POMP's candidates (arXiv:2304.04704): an image's own class and K - 1 sampled ones, shared by the batch.

    classes: (U,) distinct class indices to be encoded. own: (B,) column of each image's class among them.
    sampled: (K - 1,) columns of the sampled classes; an image's own class may be among them and is masked then.
    correction: (B, K) to be added to ``columns(logits)``.
    """

    classes: Tensor
    own: Tensor
    sampled: Tensor
    correction: Tensor | float = 0.0

    @property
    def target(self) -> Tensor:
        return torch.zeros_like(self.own)

    @property
    def own_again(self) -> Tensor:
        return self.sampled == self.own[:, None]

    def columns(self, logits: Tensor) -> Tensor:
        """(B, U) -> (B, K): the own class first, then the sampled ones."""
        negatives = logits[:, self.sampled].masked_fill(self.own_again, MASKED)
        return torch.cat([logits.gather(1, self.own[:, None]), negatives], dim=1)


def candidates(options: CfgNode, label: Tensor, num_classes: int) -> AllClasses | SampledClasses:
    """The candidate classes of a batch with labels (B,), as ``UPDATE_CLASS_NUM`` K (0: all) says.

    K - 1 of N classes are drawn uniformly without replacement. ``LOCAL_CORRECTION`` adds log((N - 1) / (K - 1 - r)) to
    every negative, r = 1 if the own class was drawn; its natural logarithm (``ln``) makes the sampled softmax estimate
    the full one, ``log10`` is what the published code and so the published numbers have.
    """
    num_candidates = options.UPDATE_CLASS_NUM
    if not num_candidates:
        return AllClasses(label)
    if not 2 <= num_candidates <= num_classes + 1:
        raise ValueError(
            f"UPDATE_CLASS_NUM must be 0 or from 2 to {num_classes + 1} (classes + 1), but is {num_candidates}"
        )
    drawn = torch.randperm(num_classes)[: num_candidates - 1]
    classes, columns = torch.cat([label.cpu(), drawn]).unique(return_inverse=True)
    own, sampled = columns.to(label.device, non_blocking=True).split([len(label), len(drawn)])
    if not options.LOCAL_CORRECTION:
        return SampledClasses(classes, own, sampled)
    left = len(drawn) - (sampled == own[:, None]).sum(dim=1, keepdim=True)
    shift = math.log(num_classes - 1) - left.clamp(min=1).log()
    shift = shift / math.log(10) if options.CORRECTION_LOG == "log10" else shift
    return SampledClasses(classes, own, sampled, F.pad(shift.expand(-1, len(drawn)), (1, 0)))


def check_choice(options: CfgNode, **allowed: tuple[str, ...]) -> None:
    """ValueError for an option that is none of its allowed values."""
    for key, values in allowed.items():
        if options[key] not in values:
            raise ValueError(f"{key} must be one of {', '.join(values)}, but is {options[key]!r}")


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)); logits (B, K), summed over classes, mean over images."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
