"""What an epoch has shown so far: averages of its losses, and where its time went."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dassl.utils import AverageMeter, MetricMeter

__all__ = ["Progress"]


class Progress:
    """Losses may be tensors on a device: they are read when somebody looks, so that no step waits for it."""

    def __init__(self, lr: float, images: int) -> None:
        self.lr, self.images = lr, images  # the epoch's first rate; images a step, of all processes
        self.losses, self.batch_time, self.data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self._unread: list[Mapping[str, float | Tensor]] = []  # of the steps since the last look at the sums
        self._begun = time.time()

    def state(self) -> dict[str, Any]:
        """Plain data, from which ``load`` makes the same averages."""
        losses = {name: meter.state() for name, meter in self.losses.meters.items()}
        return {"lr": self.lr, "losses": losses, "times": [self.batch_time.state(), self.data_time.state()]}

    def load(self, state: dict[str, Any]) -> None:
        self.lr = state["lr"]
        for name, values in state["losses"].items():
            self.losses.meters[name].load(values)
        for meter, values in zip((self.batch_time, self.data_time), state["times"]):
            meter.load(values)

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches; a step lasts from one until the next is asked for, its wait for data included."""
        self._begun = time.time()
        for batch in batches:
            self.data_time.update(time.time() - self._begun)
            yield batch
            self._begun = time.time()

    def update(self, summary: Mapping[str, float | Tensor] | None) -> None:
        """Take in a step's named numbers."""
        self.batch_time.update(time.time() - self._begun)
        self.losses.update(summary)
        self._unread.append(summary or {})

    def steps_since_overflow(self) -> int | None:
        """How many steps ago the first number came that is not finite; None if all are."""
        if all(math.isfinite(meter.sum) for meter in self.losses.meters.values()):
            self._unread.clear()
            return None
        finite = [all(math.isfinite(value) for value in summary.values()) for summary in self._unread]
        return len(finite) - 1 - finite.index(False)

    def averages(self) -> dict[str, float]:
        return {name: meter.avg for name, meter in self.losses.meters.items()}

    def speed(self) -> dict[str, float]:
        """Images a second of all processes, and the percentage of the time that this one waited for data."""
        seconds = max(self.batch_time.sum, 1e-9)
        return {
            "images_per_second": self.images * self.batch_time.count / seconds,
            "waiting_for_data": 100 * self.data_time.sum / seconds,
        }

    def __str__(self) -> str:
        batch, data = self.batch_time, self.data_time
        return f"time {batch.val:.3f} ({batch.avg:.3f}) data {data.val:.3f} ({data.avg:.3f}) {self.losses}"
