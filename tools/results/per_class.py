"""Per-class accuracy of two methods on the same data."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean

from .render import Grid
from .rows import ORDER
from .runs import Run

HEADER = ["data set", "classes", "label", "class", "first", "second", "difference"]


def per_class_grids(runs: list[Run], first: str, second: str) -> list[Grid]:
    """Accuracy of each class, mean over seeds, and ``first - second``, largest first; a grid for each data set.

    ``ValueError`` if the two have no data set and half in common, or a name fits several settings there.
    """
    ours, theirs = _by_place(runs, first), _by_place(runs, second)
    compared = {place: _compare(ours[place], theirs[place]) for place in ours.keys() & theirs.keys()}
    if not any(compared.values()):
        names = ", ".join(sorted({f"{run.method} {run.setting}".strip() for run in runs}))
        raise ValueError(f"{first} and {second} have no per-class results on the same data; there are runs of {names}")
    grids = []
    for place in sorted(compared, key=lambda place: (ORDER.get(place[0], 100), *place)):
        rows = compared[place]
        better = sum(row[-1] > 0 for row in rows)
        title = f"{first} - {second} on {place[0]}, classes: {place[1]}: better on {better} of {len(rows)} classes"
        grids.append(Grid(title, HEADER, [[*place, *row] for row in rows], 4))
    return grids


def _by_place(runs: list[Run], name: str) -> dict[tuple[str, str], list[Run]]:
    """The runs of a method ("MaPLe") or of one setting ("MaPLe vit_b16_..."), by data set and classes."""
    mine = [run for run in runs if name in (run.method, f"{run.method} {run.setting}".strip())]
    places: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in mine:
        places[run.dataset, run.classes].append(run)
    for (dataset, classes), group in places.items():
        settings = sorted({f'"{run.method} {run.setting}" with {run.shots} shots' for run in group})
        if len(settings) > 1:
            raise ValueError(f"{name} has several settings on {dataset} ({classes}): {', '.join(settings)}; choose one")
    return places


def _compare(first: list[Run], second: list[Run]) -> list[list]:
    ours, theirs = _accuracies(first), _accuracies(second)
    rows = [[*name, ours[name], theirs[name], ours[name] - theirs[name]] for name in ours.keys() & theirs.keys()]
    return sorted(rows, key=lambda row: (-row[-1], row[0]))


def _accuracies(runs: list[Run]) -> dict[tuple[int, str], float]:
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    for run in runs:
        for row in run.results.get("per_class", []):
            values[row["label"], row["classname"]].append(row["accuracy"])
    return {name: fmean(found) for name, found in values.items()}
