"""What a run costs on this machine, measured in a few steps; the command is ``tools.plan``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

import datasets  # noqa: F401 - registers the data sets
import train
from dassl.engine import build_trainer
from dassl.engine.record import peak_memory_gb
from tools.jobs import silence
from trainers.base import PromptTrainer

WARM_UP, STEPS, TEST_BATCHES = 2, 5, 2
BATCH_SIZES = (1, 4, 100)
MEASURED_SECONDS = 1.0


@dataclass(frozen=True)
class Cost:
    """Of one training run and its test. seconds: of a step, and of the test of one image; memory in 10^9 bytes."""

    trainable: int
    clip: int
    images: int
    batch_size: int
    steps: int
    epochs: int
    test_images: int
    step_seconds: float
    test_seconds: float
    memory_gb: float
    device: str

    @property
    def train_seconds(self) -> float:
        return self.steps * self.epochs * self.step_seconds

    def rows(self) -> list[tuple[str, str]]:
        test = self.test_images * self.test_seconds
        return [
            ("trainable parameters", f"{self.trainable:,} ({100 * self.trainable / self.clip:.3f} % of CLIP)"),
            ("training images", f"{self.images:,}, {self.batch_size} a step"),
            ("steps", f"{self.steps:,} x {self.epochs} epochs = {self.steps * self.epochs:,}"),
            ("one step", f"{1000 * self.step_seconds:.1f} ms, data included"),
            ("training, estimated", duration(self.train_seconds)),
            (f"test of {self.test_images:,} images, estimated", duration(test)),
            ("peak memory", f"{self.memory_gb:.2f} GB ({self.device})"),
        ]


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def build(argv: Sequence[str]) -> PromptTrainer:
    """The trainer of a run, on its device, ready for a step; what it would print is left out."""
    with silence():
        cfg = train.setup_cfg(train.parse_args([*argv]))
        trainer = build_trainer(cfg)
        trainer.begin()
    trainer.num_batches = len(trainer.train_loader_x)
    return trainer


def measure(trainer: PromptTrainer) -> Cost:
    """Carry out a few steps and test batches of a trainer that is not needed afterwards."""
    learns = any(param.requires_grad for param in trainer.model.parameters())
    step_seconds = seconds_a_step(trainer) if learns else 0.0
    batch = trainer.train_loader_x.batch_size
    return Cost(
        trainable=count(trainer.model, trainable=True),
        clip=count(trainer.model.clip),
        images=len(trainer.dm.dataset.train_x),
        batch_size=batch,
        steps=trainer.num_batches,
        epochs=trainer.max_epoch if learns else 0,
        test_images=len(trainer.dm.dataset.test),
        step_seconds=step_seconds,
        test_seconds=seconds_a_test_image(trainer),
        memory_gb=peak_memory_gb(trainer.device),
        device=torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else "CPU",
    )


def count(module: torch.nn.Module, trainable: bool = False) -> int:
    return sum(param.numel() for param in module.parameters() if param.requires_grad or not trainable)


def seconds_a_step(trainer: PromptTrainer) -> float:
    trainer.set_model_mode("train")
    batches: Iterator[Any] = chain.from_iterable(repeat(trainer.train_loader_x))
    for trainer.batch_idx, batch in enumerate(islice(batches, WARM_UP)):
        trainer.forward_backward(batch)
    begun = now(trainer.device)
    for trainer.batch_idx, batch in enumerate(islice(batches, STEPS)):
        trainer.forward_backward(batch)
    return (now(trainer.device) - begun) / STEPS


@torch.no_grad()
def seconds_a_test_image(trainer: PromptTrainer) -> float:
    trainer.set_model_mode("eval")
    blank = torch.zeros(1, 3, *trainer.cfg.INPUT.SIZE, device=trainer.device)
    trainer.model_inference(blank)  # class names are encoded here, once a test
    begun, images = now(trainer.device), 0
    for batch in islice(trainer.test_loader, TEST_BATCHES):
        if batch is None:  # every image of it was unreadable
            continue
        image, _ = trainer.parse_batch_test(batch)
        trainer.model_inference(image)
        images += len(image)
    return (now(trainer.device) - begun) / max(images, 1)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# Complexity -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def complexity(trainer: PromptTrainer) -> dict[str, object]:
    """Parameters, FLOPs of one image with and without the class texts, images per second (texts encoded once)."""
    trainer.set_model_mode("eval")
    size = trainer.cfg.INPUT.SIZE
    image = torch.rand(max(BATCH_SIZES), 3, *size, device=trainer.device)

    def forward(number: int) -> Callable[[], object]:
        return lambda: trainer.model_inference(image[:number])

    first, later = gigaflops(forward(1)), gigaflops(forward(1))
    trainable = count(trainer.model, trainable=True)
    return {
        "method": trainer.cfg.TRAINER.NAME,
        "classes": trainer.num_classes,
        "parameters": f"{trainable:,}",
        "% of CLIP": f"{100 * trainable / count(trainer.model.clip):.3f}",
        "GFLOPs, texts and an image": f"{first:.2f}",
        "GFLOPs, an image": f"{later:.2f}",
        **{f"images/s, batch {n}": f"{n * rate(forward(n), trainer.device):.0f}" for n in BATCH_SIZES},
    }


def gigaflops(forward: Callable[[], object]) -> float:
    """10^9 operations, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e9


def rate(forward: Callable[[], object], device: torch.device) -> float:
    """Calls per second."""
    forward()
    begun, calls = now(device), 0
    while (passed := now(device) - begun) < MEASURED_SECONDS:
        forward()
        calls += 1
    return calls / passed


def complexity_table(runs: Sequence[Sequence[str]]) -> str:
    """One row for each run, given by its arguments of ``train.py``."""
    rows = []
    for argv in runs:
        row = complexity(build(argv))
        config = Path(train.parse_args([*argv]).config_file).stem
        rows.append({"method": row.pop("method"), "settings": config, **row})
    return tabulate(rows, headers="keys", disable_numparse=True)
