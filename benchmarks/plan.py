"""Estimates of ``tools.plan`` beside the runs themselves: ``python -m benchmarks.plan``.

RPP on the embedded source, with its own pictures and with stand-ins; plans and runs in turns, each in a process of its
own, and the seconds of ``metrics.json``. One thread, and no loader processes: unless ``--wall`` is given, all seconds
are those that the processor spent on the process, so that what else the machine does counts little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import torch

import train
from benchmarks.common import machine, markdown
from dassl.utils import read_json
from tools import cost
from tools.stand_ins import NOTHING, Stated

RUN = (
    *("--trainer", "RPP", "--config-file", "configs/trainers/RPP/tiny_source.yaml"),
    *("--dataset-config-file", "configs/datasets/tiny_source.yaml"),
)
STAND_INS = Stated(classes=480, images=3840, test_images=4800, photo=(32, 32), forced=True)


def planned(stated: Stated) -> tuple[float, float]:
    """Seconds of training, and of the test."""
    found = cost.plan(RUN, stated=stated)
    return found.train_seconds, found.evaluation(found.test_images)


def measured() -> tuple[float, float]:
    """The same of a run."""
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "out").open("w") as out, redirect_stdout(out), redirect_stderr(out):
            if train.main([*RUN, "--seed", "1", "--output-dir", f"{folder}/run"]):
                raise RuntimeError(Path(folder, "out").read_text())
        seconds = read_json(f"{folder}/run/metrics.json")["seconds"]
        return seconds["train"], seconds["test"]


def apart(wall: bool, work: Callable[..., tuple[float, float]], *words: object) -> tuple[float, float]:
    """In a process of its own, so that nothing is warm."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(timed, wall, work, *words).result()


def timed(wall: bool, work: Callable[..., tuple[float, float]], *words: object) -> tuple[float, float]:
    """On one thread, by the clock on the wall or by the processor's."""
    torch.set_num_threads(1)
    if wall:
        return work(*words)
    with patch("time.perf_counter", time.process_time), patch("time.time", time.process_time):
        return work(*words)


def row(name: str, found: Sequence[tuple[float, float]], runs: Sequence[tuple[float, float]]) -> list[object]:
    pairs = [statistics.median(column) for column in zip(*found)], [statistics.median(column) for column in zip(*runs)]
    ratios = [plan[0] / run[0] for plan, run in zip(found, runs)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return [name, *(value for both in zip(*pairs) for value in (*both, both[0] / both[1])), spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="plans and runs, in turns")
    parser.add_argument("--wall", action="store_true", help="seconds on the wall's clock")
    args = parser.parse_args()
    own, stood_in, runs = [], [], []
    for _ in range(args.repeats):
        own.append(apart(args.wall, planned, NOTHING))
        runs.append(apart(args.wall, measured))
        stood_in.append(apart(args.wall, planned, STAND_INS))
        print(own[-1], runs[-1], stood_in[-1], flush=True)
    rows = [row("pictures and tiny CLIP", own, runs), row("stand-ins for both", stood_in, runs)]
    parts = ("planned", "run", "ratio")
    header = ["planned with", *(f"{what}: {part}" for what in ("training, s", "test, s") for part in parts), "ratios"]
    torch.set_num_threads(1)
    print(f"\n{machine()}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
