"""Training on labelled images: the loop over the batches of an epoch."""

import datetime
import math
import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from dassl.engine.checkpoints import LAST
from dassl.engine.simple_trainer import SimpleTrainer
from dassl.engine.trainer_base import TrainerBase
from dassl.utils import AverageMeter, MetricMeter

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]


class TrainerX(SimpleTrainer):
    """Training on labelled images. A subclass defines ``build_model`` and ``forward_backward(batch)``.

    ``forward_backward`` returns named numbers or one-element tensors, such as ``{"loss": loss}``; tensors may stay on
    the device, they are read when a line is printed.
    """

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return (*self.parse_batch_test(batch), batch["domain"].to(self.device, non_blocking=True))

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        unread: list[Mapping[str, float | Tensor]] = []  # of the batches since the last look at the sums
        self.num_batches = len(self.train_loader_x)
        lr = self.get_current_lr()
        started = end = time.time()
        bar = tqdm(self.train_loader_x, desc=f"epoch {self.epoch + 1}/{self.max_epoch}", leave=False, disable=None)
        for self.batch_idx, batch in enumerate(bar):
            data_time.update(time.time() - end)
            summary = self.forward_backward(batch)
            batch_time.update(time.time() - end)
            losses.update(summary)
            unread.append(summary or {})
            frequency = self.cfg.TRAIN.PRINT_FREQ
            if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
                self._check_finite(losses, unread)
                self._report(losses, batch_time, data_time)
            end = time.time()
        self._check_finite(losses, unread)
        averages = {name: meter.avg for name, meter in losses.meters.items()}
        self.record.history.append({"epoch": self.epoch + 1, **averages, "lr": lr, "seconds": time.time() - started})

    def detect_anomaly(self, loss: Tensor) -> None:
        """At once on a CPU. Elsewhere the meters show it, without waiting for the device in every step: a line is only
        printed, and an epoch only ends, with sums that are finite, so no checkpoint holds what followed.
        """
        if loss.device.type == "cpu" and not torch.isfinite(loss).all():
            raise FloatingPointError(self._anomaly(f"batch [{self.batch_idx + 1}/{self.num_batches}]"))

    def _check_finite(self, losses: MetricMeter, unread: list[Mapping[str, float | Tensor]]) -> None:
        """Read the sums, and only if one is not finite every batch, the last of which is the present one."""
        if not all(math.isfinite(meter.sum) for meter in losses.meters.values()):
            finite = [all(math.isfinite(value) for value in summary.values()) for summary in unread]
            batch = self.batch_idx + 2 - len(unread) + finite.index(False)
            raise FloatingPointError(self._anomaly(f"batch [{batch}/{self.num_batches}]"))
        unread.clear()

    def _anomaly(self, where: str) -> str:
        folders = [os.path.join(self.output_dir, name) for name in self.get_model_names()]
        files = [os.path.join(folder, LAST) for folder in folders]
        good = ", ".join(path for path in files if os.path.exists(path)) or "none yet"
        return (
            f"Loss is infinite or NaN! epoch [{self.epoch + 1}/{self.max_epoch}] {where}, "
            f"lr {self.get_current_lr():.4e}; last good checkpoint: {good}; try a smaller OPTIM.LR or fp32"
        )

    def _report(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> None:
        left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * left))
        tqdm.write(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{losses} lr {self.get_current_lr():.4e} eta {eta}"
        )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, meter in losses.meters.items():
            self.write_scalar(f"train/{name}", meter.avg, step)
        self.write_scalar("train/lr", self.get_current_lr(), step)


_LEFT_OUT = {
    "TrainerXU": "training with unlabelled data",
    "SimpleNet": "the CNN classifier",
    **dict.fromkeys(
        ["SE", "MCD", "MME", "ADDA", "CDAC", "DAEL", "DANN", "AdaBN", "M3SDA", "SourceOnly"], "domain adaptation"
    ),
    **dict.fromkeys(["DDAIG", "DAELDG", "Vanilla", "CrossGrad", "DomainMix"], "domain generalisation of CNNs"),
    **dict.fromkeys(["EntMin", "FixMatch", "MixMatch", "MeanTeacher", "SupBaseline"], "semi-supervised learning"),
}


def left_out(module: str, name: str) -> NoReturn:
    """The error for a name that a module does not have: why, if it was left out on purpose."""
    if name in _LEFT_OUT:
        raise ImportError(
            f"{name} ({_LEFT_OUT[name]}) is not part of this engine, which covers labelled prompt learning only"
        )
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    if name == "SummaryWriter":  # public trainers import it from here; a slow import, so only for them
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    left_out(__name__, name)
