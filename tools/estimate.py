"""The cost of a run, estimated from what was measured in a few steps, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from tabulate import tabulate

from tools.shares import Share

NETWORK = "The first rank's work was measured, alone on this machine; time for what is sent is not included."


@dataclass(frozen=True)
class Cost:
    """Of one run. Seconds: of the start, of what the first step adds to a step, of a step, of what a method does after
    the last epoch, of an evaluation's class texts and of one of its images, of writing a checkpoint. Evaluations: how
    many of the validation images, and of the test images. Memory in 10^9 bytes."""

    share: Share
    clip: int
    images: int
    steps: int
    epochs: int
    val_images: int
    evaluations: tuple[int, int]
    test_images: int
    checkpoints: int
    start_seconds: float
    first_seconds: float
    step_seconds: float
    end_seconds: float
    text_seconds: float
    test_seconds: float
    checkpoint_seconds: float
    memory_gb: float
    device: str
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def train_seconds(self) -> float:
        """Steps, and what a method does after the last epoch."""
        steps = self.steps * self.epochs * self.step_seconds + (self.first_seconds if self.epochs else 0)
        return steps + self.end_seconds

    @property
    def seconds(self) -> float:
        """Of everything."""
        evaluations = sum(
            count * self.evaluation(images)
            for count, images in zip(self.evaluations, (self.val_images, self.test_images))
        )
        return self.start_seconds + self.train_seconds + evaluations + self.checkpoints * self.checkpoint_seconds

    def evaluation(self, images: int) -> float:
        """Seconds of one: a rank's class texts and its share of the images."""
        return self.text_seconds + images / self.share.ranks * self.test_seconds

    def rows(self) -> list[tuple[str, str]]:
        selections, tests = self.evaluations
        share, rate = self.share, self.share.global_batch / self.step_seconds if self.step_seconds else 0
        rows = [
            *self.notes.items(),
            ("trainable parameters", f"{share.parameters:,} ({100 * share.parameters / self.clip:.3f} % of CLIP)"),
            ("training images", f"{self.images:,}, {share.global_batch:,} a step"),
            ("steps", f"{self.steps:,} x {self.epochs} epochs = {self.steps * self.epochs:,}"),
            ("one step", f"{1000 * self.step_seconds:.1f} ms, data included: {rate:,.0f} images/s"),
            ("start, and first step beyond a step", f"{duration(self.start_seconds)}, {duration(self.first_seconds)}"),
            ("fit or choice after the last epoch", duration(self.end_seconds)),
            ("training, estimated", duration(self.train_seconds)),
            ("checkpoints", f"{self.checkpoints:,} of {1000 * self.checkpoint_seconds:.1f} ms"),
        ]
        if selections:
            row = f"{selections:,} x {duration(self.evaluation(self.val_images))}"
            rows.append((f"choosing on {self.val_images:,} images, estimated", row))
        if tests:
            rows.append(
                (f"test of {self.test_images:,} images, estimated", duration(self.evaluation(self.test_images)))
            )
        rows.append(("everything, estimated", duration(self.seconds)))
        rows.append(("peak memory", f"{self.memory_gb:.2f} GB ({self.device})"))
        return rows

    def table(self) -> str:
        """Of several ranks, also what each does."""
        table = tabulate(self.rows())
        if self.share.ranks == 1:
            return table
        return f"{table}\n\nEach of {self.share.ranks} ranks, by arithmetic\n{tabulate(self.share.rows())}\n{NETWORK}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
