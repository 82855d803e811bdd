"""A training step and an evaluation batch of every method never wait for the GPU: a fake one, and the real one if any.

Where there is a GPU, the ``cuda`` cases run the same on it, and PyTorch itself tells what waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from clip.packing import make_layout
from clip.weights import PRECISIONS
from dassl.utils import MetricMeter
from tests.fake_gpu import FakeGPU, HostWait
from trainers import PromptTrainer

from .world import METHODS, SAMPLING, ZERO_SHOT, batch, maker

DEVICES = ["fake", *(["cuda"] if torch.cuda.is_available() else [])]
CASES = [(method, precision, sampled) for method in METHODS for precision in PRECISIONS for sampled in (False, True)]
CASES = [case for case in CASES if case[0] in SAMPLING or not case[2]]
CASES += [(ZERO_SHOT[0], "fp16", False)]


@pytest.fixture(scope="module")
def aside() -> Iterator[Callable]:
    """``aside(function, *args)`` in one process beside this one, which a fake GPU would not leave as it was."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield lambda function, *args: pool.submit(function, *args).result()


@contextmanager
def no_waiting(gpu: FakeGPU | None) -> Iterator[None]:
    """HostWait for what waits in this block; RuntimeError on a real GPU."""
    if gpu is None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    gpu.clear()
    yield
    if gpu.waits:
        raise HostWait("; ".join(gpu.waits))


def step_and_evaluate(trainer: PromptTrainer, gpu: FakeGPU | None) -> None:
    image, label = (tensor.pin_memory() for tensor in batch())  # as the loader hands them over
    if trainer.get_model_names():
        trainer.num_batches, losses = 2, MetricMeter()
        for trainer.batch_idx in range(2):
            before = encoded_lists(trainer)
            with no_waiting(gpu), mock.patch("clip.text.make_layout", wraps=make_layout) as layouts:
                losses.update(trainer.forward_backward({"img": image, "label": label}))
            if gpu is not None:
                assert all(upload.pinned for upload in gpu.uploads)
                check_uploads(
                    trainer,
                    [upload.shape for upload in gpu.uploads],
                    layouts.call_count,
                    encoded_lists(trainer) - before,
                )
                assert any("backward" in op.name for op in gpu.ops)
    with torch.no_grad():
        trainer.set_model_mode("eval")
        trainer.model_inference(image.to(trainer.device))  # class features are made here
        with no_waiting(gpu):
            image, label = trainer.parse_batch_test({"img": image, "label": label})
            trainer.evaluator.process(trainer.model_inference(image), label)


def encoded_lists(trainer: PromptTrainer) -> int:
    """Lists of texts that have been laid out: the method's own, and one for each hand-written template."""
    teacher = getattr(trainer.model.method, "teacher", None)
    classifiers = [trainer.model, *([teacher.classifier] if teacher else [])]
    by_hand = sum(len(key) - 1 for one in classifiers for key in one._handwritten)  # a key is flags and the templates
    return by_hand + bool(trainer.model.texts._layouts)


def check_uploads(trainer: PromptTrainer, shapes: list[tuple[int, ...]], layouts: int, lists: int) -> None:
    """Images, and labels; with sampled classes all indices of the step in one piece. Of other texts, ``lists``
    are laid out, in the first step those that the beginning has not met."""
    sampled = trainer.needs.sampling is not None
    assert shapes.count((5, 3, 32, 32)) == 1
    assert len(shapes) == 2 + layouts - sampled
    assert layouts == sampled + lists and not (trainer.batch_idx and lists)


def run(case: tuple[str, str, bool], backbone: str, output: Path, device: str) -> None:
    method, precision, sampled = case
    settings = {"PREC": precision} if method in METHODS else {}
    if method in SAMPLING:
        settings["UPDATE_CLASS_NUM"] = 4 if sampled else 0
    make = maker(backbone, output)
    if device == "cuda":
        step_and_evaluate(make(method, settings, "USE_CUDA", True), None)
        return
    with FakeGPU() as gpu:
        step_and_evaluate(make(method, settings, "USE_CUDA", True), gpu)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([*case[:2], *(["sampled"] if case[2] else [])]))
def test_nothing_waits_for_the_gpu(case: tuple, device: str, backbone: str, tmp_path: Path, aside: Callable) -> None:
    (run if device == "cuda" else lambda *args: aside(run, *args))(case, backbone, tmp_path, device)


# What a fake GPU must notice


def injected(what: Callable[[Tensor], object], backbone: str, output: Path) -> None:
    """A step of CoOp whose loss does something to the images besides."""
    with FakeGPU() as gpu:
        trainer = maker(backbone, output)("CoOp", None, "USE_CUDA", True)
        method = trainer.model.method
        loss = method.loss
        method.loss = lambda classifier, batch: [what(batch.image), loss(classifier, batch)][1]
        step_and_evaluate(trainer, gpu)


def mix(image: Tensor) -> None:
    image + torch.ones(32)


def item(image: Tensor) -> None:
    image.sum().item()


def branch(image: Tensor) -> None:
    assert image.sum() != 0


def download(image: Tensor) -> None:
    image.cpu()


def boolean_index(image: Tensor) -> None:
    image[image > 0]


def blocking_copy(image: Tensor) -> None:
    torch.ones(3).to(image.device)


def number(image: Tensor) -> None:
    torch.tensor(1.0, device=image.device)


def host_index(image: Tensor) -> None:
    image[torch.tensor([0, 1])]


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (mix, RuntimeError, "devices, cuda:0 and cpu.*test_gpu.py"),
        (item, HostWait, r"_local_scalar_dense.*, at .*tests/trainers/test_gpu.py:\d+"),
        (branch, HostWait, "_local_scalar_dense"),
        (download, HostWait, "to the host"),
        (boolean_index, HostWait, "nonzero|index"),
        (blocking_copy, HostWait, r"a copy of \(3,\) from the host without non_blocking"),
        (number, HostWait, r"a copy of \(\) from the host without non_blocking"),
        (host_index, HostWait, "index.* with a tensor on the host"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_fake_gpu_notices(
    what: Callable, error: type[Exception], message: str, backbone: str, tmp_path: Path, aside: Callable
) -> None:
    with pytest.raises(error, match=message):
        aside(injected, what, backbone, tmp_path)
