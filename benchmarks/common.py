"""What the benchmarks share: ViT-B/16 with seeded random weights, methods, the naive step beside ours, timing."""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import naive
from clip.model import CLIP
from clip.text import Texts
from clip.weights import set_precision
from dassl.utils import set_exact_fp32
from trainers.cocoop import ConditionalLearner
from trainers.coop import ContextLearner
from trainers.ivlp import IndependentLearner
from trainers.maple import CoupledLearner
from trainers.prompted_clip import PromptedCLIP, Prompts, initial_context, random_prompts
from trainers.rpp import UnsharedLearner, UnsharedPrompts

PHRASE = "a photo of a"


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def vit_b16(precision: str = "fp32") -> CLIP:
    """CLIP of ViT-B/16's shapes; the weights do not matter for time."""
    set_exact_fp32()
    torch.manual_seed(0)
    model = CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
    return set_precision(model, precision).eval().requires_grad_(False).to(device())


def class_names(count: int) -> list[str]:
    """CLIP's ImageNet names; beyond 1000, names with a number, a token or two longer."""
    names = open_clip.IMAGENET_CLASSNAMES
    return [names[i % 1000] + (f" {i // 1000}" if i >= 1000 else "") for i in range(count)]


def learner(method: str, clip: CLIP) -> nn.Module:
    """The method's learner at its paper's size."""
    torch.manual_seed(1)
    text, vision = clip.transformer.width, clip.visual.width
    if method == "CoOp":
        return ContextLearner(initial_context(clip, "", 16))
    if method == "POMP":
        return ContextLearner(initial_context(clip, "", 4))
    if method == "CoCoOp":
        return ConditionalLearner(initial_context(clip, PHRASE, 4), clip.embed_dim)
    if method == "MaPLe":
        return CoupledLearner(initial_context(clip, PHRASE, 2), 9, vision)
    if method == "IVLP":
        return IndependentLearner(random_prompts(9, 4, text), random_prompts(9, 4, vision))
    if method == "VPT":
        return IndependentLearner(nn.ParameterList(), random_prompts(12, 8, vision))
    if method == "RPP":  # at MaPLe's length and depth
        form = {"qkv": "qkv", "residual": "carry"}
        return UnsharedLearner(UnsharedPrompts(9, 2, text, **form), UnsharedPrompts(9, 2, vision, **form))
    raise ValueError(f"No benchmark for {method}")


WORDING = {"CoOp": ("", 16), "POMP": ("", 4), "CoCoOp": (PHRASE, 4), "IVLP": (PHRASE, 4), "VPT": (PHRASE, 0)}


def classifier(method: str, classes: int, precision: str = "fp32", memory_gb: float | None = None) -> PromptedCLIP:
    clip = vit_b16(precision)
    wording = WORDING.get(method, (PHRASE, 2))
    return PromptedCLIP(
        clip, learner(method, clip), lambda n: Texts.from_names(n, *wording), class_names(classes), memory_gb
    ).to(device())


def naive_logits(model: PromptedCLIP, image: Tensor, classes: Tensor | None = None) -> Tensor:
    """The family's forward pass: all texts, 77 rows each, for every batch."""
    ids = naive.padded_ids(model.texts if classes is None else model.texts.select(classes)).to(image.device)
    conditional = getattr(model.learner, "conditional", False)
    prompts: Prompts | None = None if conditional else model.learner()
    vision = None if prompts is None else prompts.vision
    features = naive.encode_image(model.clip, image, vision, naive.sdpa)
    prompts = model.learner(F.normalize(features, dim=-1)) if conditional else prompts
    return naive.logits(model.clip, features, naive.encode_text(model.clip, ids, prompts.text, naive.sdpa))


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
