"""Terms of losses that several methods share.

Letters: B images, C classes, N rows, E joint width.
"""

from __future__ import annotations

from torch import Tensor


def top1(logits: Tensor, label: Tensor) -> Tensor:
    """Accuracy in percent of logits (B, C) with labels (B,)."""
    return (logits.argmax(dim=1) == label).float().mean().mul(100)


def cosine_distance(one: Tensor, other: Tensor) -> Tensor:
    """1 - the mean over rows of <a, b>; unit-norm (N, E) both."""
    return 1 - (one * other).sum(dim=1).mean()
