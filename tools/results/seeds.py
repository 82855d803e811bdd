"""Mean and spread over the seeds of one experiment, printed as the family's ``parse_test_res.py`` does."""

from __future__ import annotations

import math
from itertools import groupby
from statistics import fmean, pstdev

from .runs import Run


def report(runs: list[Run], keyword: str, ci95: bool) -> str:
    """A block for each folder that holds seeds, and their mean if there are several.

    keyword: a result in ``metrics.json``: accuracy, error_rate or macro_f1. The spread is the population standard
    deviation, or 1.96 std / sqrt(n) with ``ci95`` (tables use Student's t instead). ``KeyError`` for another keyword.
    """
    blocks, means = [], []
    runs = sorted(runs, key=lambda run: run.folder.parent)
    for folder, group in groupby(runs, key=lambda run: run.folder.parent):
        seeds = [*group]
        values = [_value(run, keyword) for run in seeds]
        spread = pstdev(values) * (1.96 / math.sqrt(len(values)) if ci95 else 1)
        means.append(fmean(values))
        lines = [f"file: {run.folder / 'metrics.json'}. {keyword}: {value:.2f}%. " for run, value in zip(seeds, values)]
        summary = f"Summary of directory: {folder}\n* {keyword}: {means[-1]:.2f}% +- {spread:.2f}%"
        blocks.append("\n".join([f"Parsing files in {folder}", *lines, "===", summary, "==="]))
    if len(means) > 1:
        blocks.append(f"Average performance\n* {keyword}: {fmean(means):.2f}%")
    return "\n".join(blocks) + "\n"


def _value(run: Run, keyword: str) -> float:
    value = run.results.get(keyword)
    if not isinstance(value, int | float):
        names = [name for name, one in run.results.items() if isinstance(one, float)]
        raise KeyError(f'no "{keyword}" in {run.folder / "metrics.json"}; there are {", ".join(names)}')
    return value
