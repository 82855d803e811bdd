"""A killed run, started again with the same words, ends as one that nobody has touched: bit for bit."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from .processes import NEVER, Processes, Way
from .test_torchrun import wait_for


def words(folder: Path, method: str, size: int) -> list[object]:
    """Three epochs of 10 steps of 8 images, with a checkpoint after every step."""
    run = ("--trainer", method, "--seed", 1, "--output-dir", folder / "run", "--timeout", 60)
    augmented = ("--transforms", "random_resized_crop", "random_flip", "normalize")
    steps = ("OPTIM.MAX_EPOCH", 3, "DATASET.NUM_SHOTS", 1, "DATALOADER.TRAIN_X.BATCH_SIZE", 8 // size)
    data = ("DATALOADER.NUM_WORKERS", 1, "DATALOADER.CACHE_FEATURES", False, "TEST.SPLIT", "val")
    return [*run, *augmented, *steps, *data, "TRAIN.CHECKPOINT_STEPS", 1, "TRAIN.PRINT_FREQ", 1]


def go(folder: Path, argv: Sequence[object], size: int, way: Way = NEVER) -> list[tuple[int, list[str]]]:
    """Exit statuses and error lines of the processes; the first one is killed that way."""
    return Processes(folder, [argv] * size, way).ended()


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict], dict]:
    """Weights, optimiser's state and all, and the record without times."""
    folder = folder / "run"
    (path,) = folder.glob("*/model.pth.tar-3")
    state = torch.load(path, weights_only=True)
    momentum = {f"momentum {n}": one["momentum_buffer"] for n, one in state["optimizer"]["state"].items()}
    metrics = json.loads((folder / "metrics.json").read_text())
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in metrics["history"]]
    assert metrics["status"] == "finished" and len(history) == 3
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp") or "model-last" in path.name]
    return {**state["state_dict"], **momentum}, history, metrics["results"]


def check_same(found: Path, expected: Path) -> None:
    weights, *records = outcome(found)
    whole, *untouched = outcome(expected)
    assert weights.keys() == whole.keys() and all(torch.equal(weights[key], whole[key]) for key in whole)
    assert records == untouched


def killed_until_done(folder: Path, expected: Path, method: str, size: int, ways: Sequence[Way]) -> None:
    for way in ways:
        statuses = [status for status, _ in go(folder, words(folder, method, size), size, way)]
        assert statuses[0] == -signal.SIGKILL, (way, statuses)
    assert [status for status, _ in go(folder, words(folder, method, size), size)] == [0] * size
    check_same(folder, expected)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """Runs that nobody has touched, by method and number of processes; made when they are asked for."""
    made: dict[tuple[str, int], Path] = {}

    class Runs(dict):
        def __missing__(self, key: tuple[str, int]) -> Path:
            folder = tmp_path_factory.mktemp("whole")
            assert [status for status, _ in go(folder, words(folder, *key), key[1])] == [0] * key[1]
            self[key] = folder
            return folder

    return Runs(made)


def test_one_process(tmp_path: Path, whole: dict) -> None:
    """In the middle of an epoch and at its end, in the middle of writing a state, and before it takes its place."""
    ways = [("step", 7), ("fsync", 4), ("replace", 5), ("step", 12)]
    killed_until_done(tmp_path, whole["POMP", 1], "POMP", 1, ways)


def test_two_processes(tmp_path: Path, whole: dict) -> None:
    killed_until_done(tmp_path, whole["RPP", 2], "RPP", 2, [("step", 13), ("replace", 6)])


def test_another_number_of_processes(tmp_path: Path, whole: dict) -> None:
    """Goes on with the same images a step, and is refused with others."""
    assert go(tmp_path, words(tmp_path, "RPP", 2), 2, ("step", 13))[0][0] == -signal.SIGKILL
    ((status, told),) = go(tmp_path, words(tmp_path, "RPP", 2), 1)
    assert status == 2 and "images a step: 8 there, 4 now" in "\n".join(told)
    assert go(tmp_path, words(tmp_path, "RPP", 1), 1) == [(0, [])]
    (weights, history, _), (expected, losses, _) = outcome(tmp_path), outcome(whole["RPP", 2])
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in losses], rel=1e-4)
    assert all(torch.allclose(weights[key], expected[key], rtol=1e-3, atol=1e-5) for key in expected)


def test_sigterm_leaves_the_step_it_came_in(tmp_path: Path, whole: dict) -> None:
    """Of all processes the same one; what it was asked to leave is what goes on."""
    processes = Processes(tmp_path, [words(tmp_path, "RPP", 2)] * 2)
    wait_for(tmp_path / "run" / "log.txt", "epoch [1/3] batch [3/10]")
    processes.send(signal.SIGTERM, 0, 1)
    assert [status for status, _ in processes.ended()] == [143, 143]
    line = (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]
    (path,) = tmp_path.glob("run/*/model-last.pth.tar")
    state = torch.load(path, weights_only=True)
    step = state["position"]["step"]
    assert f"Stopped by SIGTERM after epoch [{state['epoch'] + 1}/3] batch [{step}/10]" in line
    assert [status for status, _ in go(tmp_path, words(tmp_path, "RPP", 2), 2)] == [0, 0]
    check_same(tmp_path, whole["RPP", 2])


@pytest.mark.kills
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("size", [1, 2])
def test_twenty_kills_at_random(size: int, tmp_path: Path, whole: dict) -> None:
    """At any moment of a run, start-up and test included."""
    begun = time.monotonic()
    expected = whole["RPP", size]
    lasts = time.monotonic() - begun
    chance = random.Random(size)
    for number in range(20):
        (folder := tmp_path / str(number)).mkdir()
        way = ("milliseconds", round(1000 * lasts * chance.uniform(0.3, 1.0)))
        go(folder, words(folder, "RPP", size), size, way)
        assert [status for status, _ in go(folder, words(folder, "RPP", size), size)] == [0] * size
        check_same(folder, expected)
        print(f"{number + 1} of 20: killed after {way[1]} ms")
