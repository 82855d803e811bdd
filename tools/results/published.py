"""Numbers that papers print, from ``published/*.csv``; the file's name is the protocol, every row has its source."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .runs import Run

FOLDER = Path(__file__).with_name("published")


@dataclass(frozen=True)
class Published:
    """One printed number, in percent.

    options: ``KEY=VALUE ...``, the configuration it belongs to, since papers print variants too. shots and
    source_dataset: "" for any. dataset: stem of its config file, or ``average``. metric: base, new, H or accuracy.
    """

    protocol: str
    method: str
    options: str
    backbone: str
    shots: str
    source_dataset: str
    dataset: str
    metric: str
    value: float
    source: str


@cache
def load() -> tuple[Published, ...]:
    return tuple(_rows())


def _rows() -> Iterator[Published]:
    for path in sorted(FOLDER.glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield Published(path.stem, **{**row, "value": float(row["value"])})


def select(protocol: str, backbone: str, shots: int | None = None, source_dataset: str = "") -> list[Published]:
    """The rows of one table; ``shots`` and ``source_dataset`` count where a row names them."""
    return [
        row
        for row in load()
        if (row.protocol, row.backbone) == (protocol, backbone)
        and (not row.shots or shots is None or row.shots == str(shots))
        and row.source_dataset in ("", source_dataset)
    ]


def options_of(row: Published) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in row.options.split())


def find(rows: list[Published], runs: Sequence[Run], dataset: str, metric: str) -> Published | None:
    """The printed value beside a result of ours, which is of ``runs``: if all of them have the row's options."""
    key = (runs[0].method, dataset, metric)
    same = (row for row in rows if (row.method, row.dataset, row.metric) == key)
    return next((row for row in same if all(_fits(row, run) for run in runs)), None)


def _fits(row: Published, run: Run) -> bool:
    if run.split != "test" or (run.zero_shot and run.setting):  # papers use each data set's own words
        return False
    return all(str(run.config.get(name)) == value for name, value in options_of(row).items())
