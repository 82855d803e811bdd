"""Accuracy, and distances between rows of matrices."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compute_accuracy", "compute_distance_matrix", "cosine_distance", "euclidean_squared_distance"]


def compute_accuracy(output: Tensor | Sequence[Tensor], target: Tensor, topk: Sequence[int] = (1,)) -> list[Tensor]:
    """For every k, the percentage of images whose label is among the k best scores, as a tensor of shape (1,).

    output: (B, C) scores, or a sequence whose first element they are. target: (B,) labels.
    """
    scores = output if isinstance(output, Tensor) else output[0]
    best = scores.topk(min(max(topk), scores.shape[1]), dim=1).indices
    hits = best == target.view(-1, 1)
    return [hits[:, :k].any(dim=1).float().mean().mul(100).view(1) for k in topk]


def compute_distance_matrix(first: Tensor, second: Tensor, metric: str = "euclidean") -> Tensor:
    """(M, N) squared Euclidean or cosine distances between the rows of (M, D) and (N, D)."""
    metrics = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}
    if metric not in metrics:
        raise ValueError(f"metric must be one of {list(metrics)}, but got {metric!r}")
    return metrics[metric](first, second)


def euclidean_squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """(M, N) squared distances |a|^2 + |b|^2 - 2 a.b"""
    squares = first.pow(2).sum(1, keepdim=True) + second.pow(2).sum(1)
    return torch.addmm(squares, first, second.t(), beta=1, alpha=-2)


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """(M, N) values of 1 - cos(a, b)"""
    return 1 - F.normalize(first, dim=1) @ F.normalize(second, dim=1).t()
