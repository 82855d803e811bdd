"""The embedded world is worth learning in: a learned context beats the hand-written template on its base classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from tests.trainers.world import METHODS, descended, method_class


def accuracy(folder: Path, trainer: str, seed: int, *opts: str) -> float:
    argv = ["--trainer", trainer, "--dataset-config-file", "configs/datasets/tiny_digits.yaml", "--seed", str(seed)]
    argv += ["--output-dir", str(folder), "DATASET.SUBSAMPLE_CLASSES", "base", *opts]
    assert train.main(argv) == 0
    return json.loads((folder / "metrics.json").read_text())["results"]["test"]["accuracy"]


def test_coop_beats_zero_shot_on_base_classes(tmp_path: Path) -> None:
    zero_shot = accuracy(tmp_path / "zero", "ZeroshotCLIP", 1)
    learned = [accuracy(tmp_path / f"coop{seed}", "CoOp", seed) for seed in (1, 2, 3)]
    assert 25 < zero_shot < 90  # five classes: above chance, below perfect
    assert min(learned) > zero_shot
    assert sum(learned) / 3 > zero_shot + 3


@pytest.mark.parametrize("method", METHODS)
def test_loss_falls(method: str, tmp_path: Path) -> None:
    """With the method's own tiny settings; over all five base digits, since sampled losses are easier."""
    is_sampled = METHODS[method].get("UPDATE_CLASS_NUM")
    accuracy(tmp_path, method, 1, *([f"{method_class(method).section()}.UPDATE_CLASS_NUM", "6"] if is_sampled else []))
    history = json.loads((tmp_path / "metrics.json").read_text())["history"]
    assert history[-1][descended(method)] < history[0][descended(method)]
