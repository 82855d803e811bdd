"""The embedded world is worth learning in: a learned context beats the hand-written template on its base classes."""

from __future__ import annotations

import json
from pathlib import Path

import train


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
