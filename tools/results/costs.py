"""What methods cost: learned parameters, seconds and memory, beside one another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from statistics import fmean

from .render import Grid
from .runs import Run

COLUMNS = ("parameters", "training s", "test s", "memory GB")
_NONE = {"parameters": 0.0, "training s": 0.0}  # of what is not trained


def cost_grid(runs: list[Run]) -> Grid:
    """A row for each method and its settings: means over its trainings, which end with a test, or over evaluations if
    there is no training of it."""
    rows = []
    for (backbone, method, setting), group in groupby(sorted(runs, key=_name), key=lambda run: _name(run)[1:]):
        everything = list(group)
        trained = [run for run in everything if not run.eval_only] or everything
        means = {name: _mean(run.cost.get(name, _NONE.get(name)) for run in trained) for name in COLUMNS}
        means["parameters"] = round(means["parameters"])
        rows.append([backbone, f"{method} {setting}".strip(), len(trained), *means.values()])
    return Grid("Costs, means over runs", ["backbone", "method", "runs", *COLUMNS], rows, 2)


def _name(run: Run) -> tuple[bool, str, str, str]:
    return not run.zero_shot, run.backbone, run.method, run.setting


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
