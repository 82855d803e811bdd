"""What the benchmarks share: ViT-B/16 with seeded random weights, methods, the naive step beside ours, timing."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import open_clip
import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import trainers
from benchmarks import naive
from clip import CLIP, PromptPlan
from clip.clip import load_frozen
from configs import ROOT, methods
from dassl.config import merge_from_file, merge_from_list
from dassl.ranks import Ranks
from dassl.utils import set_exact_fp32
from trainers.load import default_config, method_section
from trainers.options import Options, read_options
from trainers.prompted_clip import PromptedCLIP, Subset, unit


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def vit_b16(precision: str = "fp32") -> CLIP:
    """CLIP of ViT-B/16's shapes; the weights do not matter for time."""
    set_exact_fp32()
    torch.manual_seed(0)
    return load_frozen("random:ViT-B/16", "", precision).to(device())


def class_names(count: int) -> list[str]:
    """CLIP's ImageNet names; beyond 1000, names with a number, a token or two longer."""
    names = open_clip.IMAGENET_CLASSNAMES
    return [names[i % 1000] + (f" {i // 1000}" if i >= 1000 else "") for i in range(count)]


def options_of(method: str, changes: Mapping[str, object] | None = None) -> Options:
    """Few-shot settings of a method of the table, else its defaults, with ``changes`` (KEY: value of its section)."""
    row, kind, cfg = methods()[method], getattr(trainers, method), default_config()
    if recipe := row.recipe("fewshot", "", 16):
        merge_from_file(cfg, str(ROOT / "trainers" / (row.settings or method) / f"{recipe}.yaml"))
    words = [(f"{kind.section()}.{key}", value) for key, value in (changes or {}).items()]
    merge_from_list(cfg, [*chain.from_iterable(words)])
    return read_options(kind.Options, method_section(cfg, kind), kind.section())


class NaiveCLIP(PromptedCLIP):
    """The family's forward pass: all texts, 77 rows each, anew whenever their features are wanted."""

    def encode_image(self, image: Tensor, plan: PromptPlan | None = None) -> Tensor:
        return unit(naive.encode_image(self.clip, image, plan, naive.sdpa))

    def encode_image_and_prompt(self, image: Tensor, plan: PromptPlan) -> tuple[Tensor, Tensor]:
        rows = naive.image_rows(self.clip, image, plan, naive.sdpa)
        return unit(rows[:, 0] @ self.clip.visual.proj), rows[:, 1 : 1 + plan.deep_length]

    def encode_text(self, plan: PromptPlan | None, classes: Subset | None = None) -> Tensor:
        texts, plan = (self.texts, plan) if classes is None else (classes.texts, plan and plan.select(classes.index))
        return unit(naive.encode_text(self.clip, naive.padded_ids(texts).to(self.device), plan, naive.sdpa))


@dataclass(frozen=True)
class RandomFeatures:
    """What a method's beginning may ask for (``Data`` in ``trainers/method.py``): features of 16 images a class."""

    classnames: Sequence[str]
    width: int

    def features(self, split: str, passes: int = 1) -> tuple[Tensor, Tensor]:
        label = torch.arange(16 * len(self.classnames)) % len(self.classnames)
        features = torch.randn(passes, len(label), self.width, generator=torch.Generator().manual_seed(4))
        return features.to(device()), label.to(device())


def classifier(
    method: str,
    classes: int,
    precision: str = "fp32",
    memory_gb: float | None = None,
    changes: Mapping[str, object] | None = None,
    kind: type[PromptedCLIP] = PromptedCLIP,
    ranks: Ranks | None = None,
) -> PromptedCLIP:
    """Ready for a step; of the same parameters whenever it is made, for a ``NaiveCLIP`` too, and on every rank."""
    torch.manual_seed(1)
    clip = vit_b16(precision)
    made = getattr(trainers, method)(clip, options_of(method, changes), classes)
    model = kind(clip, made, class_names(classes), memory_gb=memory_gb, ranks=ranks).to(device())
    model.trained_on = tuple(model.classnames)
    made.begin(model, RandomFeatures(class_names(classes), clip.embed_dim))
    return model


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(2)).to(device())


def interleave(functions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each, run in turns in one process after one warm-up each."""
    seconds: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for times, function in zip(seconds, functions):
            gc.collect()
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            if repeat or repeats == 0:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def synchronize() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def count_flops(function: Callable[[], object]) -> float:
    """Multiply-adds count as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def machine() -> str:
    """Hardware and versions, for the head of a table."""
    name = torch.cuda.get_device_name() if device().type == "cuda" else cpu_name()
    return f"{name}, {torch.get_num_threads()} threads; torch {torch.__version__}, Python {platform.python_version()}"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    return tabulate(rows, header, tablefmt="github", floatfmt=".2f", missingval="-")


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each, in turns; 0: the naive step once")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    return parser
