"""The embedded world made so small that whole tables take seconds, and what tests read from finished runs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import train
from dassl.utils import read_json
from datasets.embedded import EMBEDDED, TinyDigits
from tools import sweep

CLASSES, DIGITS_A_FOLD = 12, 30
# One epoch, one image a class, and no more sampled classes than there are.
TINY = (
    *("OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "1"),
    *("TRAINER.RPP.UPDATE_CLASS_NUM", "4", "TRAINER.POMP.UPDATE_CLASS_NUM", "4"),
)


@pytest.fixture
def small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve classes with two images a split, a thirtieth of the digits; forked jobs inherit it."""
    digits = TinyDigits.rows
    digits("train")  # scikit-learn is slow to import: once, not in every job
    for dataset in EMBEDDED:
        few = dataset.classes()[:CLASSES]
        monkeypatch.setattr(dataset, "classes", classmethod(lambda cls, few=few: few))
        monkeypatch.setattr(dataset, "per_class", {"train": 2, "val": 1, "test": 2})
    monkeypatch.setattr(TinyDigits, "rows", classmethod(lambda cls, split: digits(split)[::DIGITS_A_FOLD]))
    monkeypatch.setattr(train, "collect_env_info", lambda: "")  # asks pip for a second


def accuracies(out: Path) -> dict[str, float]:
    """Test accuracy by folder below ``out``."""
    return {
        str(path.parent.relative_to(out)): read_json(str(path))["results"]["test"]["accuracy"]
        for path in sorted(out.rglob("metrics.json"))
    }


def epochs_in(logs: Sequence[Path]) -> list[tuple[Path, int]]:
    """The epochs that were trained, by log file: one for each start of a run."""
    found = set()
    for path in logs:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("epoch ["):
                found.add((path, int(line.split("[")[1].split("/")[0])))
    return sorted(found)


def start_sweep(argv: Sequence[str]) -> multiprocessing.Process:
    """A sweep in a process group of its own, as a shell would start it."""

    def run() -> None:
        os.setsid()
        os._exit(sweep.main(argv))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process
