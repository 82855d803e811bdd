"""This machine: a training step in each precision, ours beside the naive one, and how long trainings will take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

import trainers
from clip import CLIP
from clip.clip import load_frozen
from clip.weights import PRECISIONS
from configs import methods
from dassl.config import merge_from_file
from dassl.utils import set_exact_fp32
from datasets.embedded import TARGETS
from tools import cost
from tools.estimate import duration
from trainers.load import default_config, method_section
from trainers.options import read_options
from trainers.prompted_clip import PromptedCLIP

from .accuracy import Setup
from .expected import Expected
from .verdicts import OK, WRONG, Verdict, absent

# |ours - naive| / |naive| of loss and gradients. Rounding alone: with the tiny CLIP's three layers of the image encoder
# 1e-3 in fp16, 1e-2 in bf16; a wrong computation is off by about 1.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.2, "amp": 0.05, "amp_bf16": 0.2}
CLASSES, BATCH, REPEATS = 100, 4, 3
LOSS_SCALE = 2.0**10  # so that small gradients stay in fp16's range, as in training


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def precisions() -> tuple[str, ...]:
    """All on a GPU; a CPU has no use for the others."""
    return PRECISIONS if torch.cuda.is_available() else PRECISIONS[:1]


# A step ---------------------------------------------------------------------------------------------------------------


def verify_step(expected: Expected, weights: Path, precision: str) -> Iterator[Verdict]:
    """Loss and gradients of a step of the first benchmark case, and its time."""
    try:
        from benchmarks.common import NaiveCLIP, interleave
        from benchmarks.step import CASES
    except ImportError:  # an installation has no benchmarks
        yield absent(precision, "the naive computation is in benchmarks/, in the clone only")
        return
    set_exact_fp32()
    clip = load_frozen(expected.backbone, str(weights), precision).to(device())
    method = CASES[0].method
    steps = [Step(expected, clip, method, precision, kind) for kind in (NaiveCLIP, PromptedCLIP)]
    off = max(float((ours - naive).norm() / naive.norm()) for naive, ours in zip(*(step() for step in steps)))
    seconds = interleave(steps, REPEATS)
    what = f"{precision}, {method}, {len(steps[0].model.classnames)} classes, batch {BATCH}, {device_name()}"
    found = f"{off:.1e} off the naive step; {seconds[0]:.3g} s naive, {seconds[1]:.3g} s ours"
    state = OK if math.isfinite(off) and off <= TOLERANCES[precision] else WRONG
    yield Verdict(state, what, found, f"at most {TOLERANCES[precision]:g} off")


class Step:
    """A method's loss and its gradients, all in one vector, by one of the two computations."""

    def __init__(self, expected: Expected, clip: CLIP, method: str, precision: str, kind: type[PromptedCLIP]) -> None:
        torch.manual_seed(1)
        made = getattr(trainers, method)(clip, options(expected, method), CLASSES)
        self.model = kind(clip, made, class_names(clip), precision=precision).to(device()).train()
        size = clip.visual.input_resolution
        image = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(2))
        label = torch.arange(BATCH) % len(self.model.classnames)
        self.batch = trainers.method.Batch.of(image.to(device()), label.to(device()))

    def __call__(self) -> tuple[Tensor, Tensor]:
        method = self.model.method
        method.zero_grad()
        with self.model.autocast():
            terms = method.loss(self.model, self.batch)
        terms = {name: LOSS_SCALE * term for name, term in terms.items() if name.endswith("_loss")}
        method.backward(terms)
        gradients = [p.grad.flatten().float() for p in method.parameters() if p.grad is not None]
        return sum(terms.values()).detach().float(), torch.cat(gradients)


def options(expected: Expected, method: str) -> object:
    """The method's few-shot settings."""
    kind, cfg = getattr(trainers, method), default_config()
    merge_from_file(cfg, str(expected.settings_file(methods()[method], "fewshot", "")))
    return read_options(kind.Options, method_section(cfg, kind), kind.section())


def class_names(clip: CLIP) -> list[str]:
    """CLIP's names of ImageNet's classes; of a model that knows few words, those of an embedded data set."""
    if clip.known_tokens is not None:
        return [" ".join(words) for words in TARGETS[0].classes()][:CLASSES]
    from open_clip import IMAGENET_CLASSNAMES

    return IMAGENET_CLASSNAMES[:CLASSES]


# What comes -----------------------------------------------------------------------------------------------------------


def learners() -> list[str]:
    """Methods that are trained on few shots of base classes."""
    return [name for name, row in methods().items() if not row.zero_shot and row.recipes.get("base2new")]


def verify_times(setup: Setup, method: str, dataset: str) -> Iterator[Verdict]:
    """A training on the base classes of a data set, estimated from some steps of it."""
    words = [*setup.arguments(method, "base2new", dataset), "DATASET.SUBSAMPLE_CLASSES", "base"]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found = cost.plan([*words, "DATASET.NUM_SHOTS", "16", "OUTPUT_DIR", str(setup.out), *setup.backbone()])
    memory = f", {found.memory_gb:.1f} GB" if torch.cuda.is_available() else ""  # a process's own peak never falls
    each = f"{1000 * found.step_seconds:.0f} ms a step{memory}, {found.device}"
    yield Verdict(OK, f"{method} on {dataset}, 16 shots, base classes", f"{duration(found.seconds)} ({each})")
