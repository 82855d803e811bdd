"""Running averages that cost no synchronisation with the accelerator until they are read."""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["AverageMeter", "MetricMeter"]


class AverageMeter:
    """Last value, sum, count and average of a stream of numbers or one-element tensors.

    Tensors stay on their device; ``val``, ``avg`` and ``sum`` bring them over when they are read. With ``ema`` the
    average is ``0.9 * avg + 0.1 * val``, from 0.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self._val: float | Tensor = 0.0
        self._avg: float | Tensor = 0.0
        self._sum: float | Tensor = 0.0
        self.count = 0

    def update(self, val: float | Tensor, n: int = 1) -> None:
        """Take in ``val``, the mean of ``n`` items."""
        if isinstance(val, Tensor):
            if val.numel() != 1:
                raise ValueError(f"a meter takes one number at a time, but got a tensor of shape {tuple(val.shape)}")
            val = val.detach().reshape(()).to(torch.float64)
        self._val = val
        self._sum = self._sum + val * n
        self.count += n
        self._avg = 0.9 * self._avg + 0.1 * val if self.ema else self._sum / self.count

    def state(self) -> tuple[float, float, float, int]:
        """All that the meter knows; ``load`` takes it."""
        return self.val, self.avg, self.sum, self.count

    def load(self, state: tuple[float, float, float, int]) -> None:
        self._val, self._avg, self._sum, self.count = state

    @property
    def val(self) -> float:
        return float(self._val)

    @property
    def avg(self) -> float:
        return float(self._avg)

    @property
    def sum(self) -> float:
        return float(self._sum)


class MetricMeter:
    """Named ``AverageMeter`` objects in the order in which the names were first seen."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: defaultdict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, values: Mapping[str, float | Tensor] | None) -> None:
        if values is None:
            return
        if not isinstance(values, Mapping):
            raise TypeError(f"MetricMeter.update takes a dict of named numbers, but got a {type(values).__name__}")
        for name, value in values.items():
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items())
