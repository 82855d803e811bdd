"""Figures of the papers: bars, radar over data sets, curves over a setting, training curves, per-class differences."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dassl.utils import atomic_write

from .render import BY_DATASET, Grid, heading
from .rows import AVERAGE, ORDER, RECIPE, Key, Table
from .runs import Run
from .tables import build

# What a curve runs over: config keys, the first that a run has counts. Any other config key can be named as well.
AXES = {
    "shots": ("DATASET.NUM_SHOTS",),
    "depth": ("PROMPT_DEPTH", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION"),
    "length": ("N_CTX", "N_CTX_TEXT", "N_CTX_VISION"),
}
COLUMN = {"base2new": "H"}  # what a curve or radar shows of a protocol; the accuracy of the others
COLUMNS = 4  # panels side by side

Point = tuple[float, float, float, float]  # setting, mean, half width of the interval, published value or NaN


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of the file's ending, atomically; ``ValueError`` for an unknown ending."""
    form = path.suffix.lstrip(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if form not in known:
        raise ValueError(f'cannot plot to "{path}": choose an ending out of {", ".join(sorted(known))}')
    with atomic_write(os.fspath(path)) as file:
        figure.savefig(file, format=form, bbox_inches="tight")
    plt.close(figure)


def radar(tables: list[Table]) -> Figure:
    """One polygon for each method over the data sets of the first table that has at least three."""
    for table in tables:
        column = COLUMN.get(table.protocol, "accuracy")
        datasets = [name for name, found in table.places() if found == column and name != AVERAGE]
        if len(datasets) >= 3:
            return _radar(table, datasets, column)
    raise ValueError("a radar plot needs a table with at least three data sets (base2new, xd or dg)")


def _radar(table: Table, datasets: list[str], column: str) -> Figure:
    """Every axis ends at its best method, whose value stands beside it; all axes have the same unit."""
    figure, axes = plt.subplots(figsize=(6, 6), subplot_kw={"polar": True})
    angles = [2 * math.pi * place / len(datasets) for place in range(len(datasets))]
    best = [max(row[name, column].value for row in table.rows.values() if (name, column) in row) for name in datasets]
    for method, row in table.rows.items():
        values = [row[name, column].value if (name, column) in row else math.nan for name in datasets]
        behind = [value - largest for value, largest in zip(values, best)]
        axes.plot([*angles, angles[0]], [*behind, behind[0]], marker="o", markersize=3, label=method)
    low, _ = axes.get_ylim()
    axes.set_ylim(min(low * 1.2, -1), 0)
    axes.set_xticks(angles, [f"{name}\n{value:.1f}" for name, value in zip(datasets, best)])
    axes.tick_params(axis="x", pad=14)
    axes.set_title(f"{table.title}\n{column} (%), in points behind the best", pad=20)
    axes.legend(loc="lower right", bbox_to_anchor=(1.25, -0.12))
    return figure


def bars(tables: list[Table]) -> Figure:
    """Every number of the tables with its interval, a row for each table; of base-to-new a panel for each data set."""
    names = [*dict.fromkeys(method for table in tables for method in table.rows)]
    colours = {name: f"C{place % 10}" for place, name in enumerate(names)}
    groups = max(len(table.places()) for table in tables)
    figure = plt.figure(figsize=(3 + 0.9 * groups, 4 * len(tables)), layout="constrained")
    for part, table in zip(figure.subfigures(len(tables), 1, squeeze=False).flat, tables):
        panels: dict[str, list[Key]] = defaultdict(list)
        for place in table.places():
            panels[place[0] if table.protocol in BY_DATASET else ""].append(place)
        row = part.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=[*map(len, panels.values())])
        for axes, (name, places) in zip(row.flat, panels.items()):
            axes.set_title(name, fontsize=9)
            _draw_bars(axes, table, places, colours)
        part.suptitle(table.title, fontsize=10)
        part.supylabel("accuracy (%), 95 % interval over seeds", fontsize=8)
        part.legend(*row[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _draw_bars(axes: Axes, table: Table, places: list[Key], colours: dict[str, str]) -> None:
    """A group for each place, a bar for each method."""
    width = 0.8 / len(table.rows)
    for number, (method, row) in enumerate(table.rows.items()):
        found = [(place, row[key].sample) for place, key in enumerate(places) if key in row and row[key].sample]
        at = [place + (number - (len(table.rows) - 1) / 2) * width for place, _ in found]
        heights = [sample.mean for _, sample in found]
        errors = [sample.half_width or 0.0 for _, sample in found]
        inside = [min(error, height) for error, height in zip(errors, heights)]  # an accuracy is in [0, 100]
        above = [min(error, 100 - height) for error, height in zip(errors, heights)]
        axes.bar(at, heights, width, yerr=(inside, above), capsize=2, color=colours[method], label=method)
    shown = [key[1] if table.protocol in BY_DATASET else heading(key, table) for key in places]
    axes.set_xticks(range(len(places)), shown, rotation=0 if table.protocol in BY_DATASET else 25, fontsize=8)


def curves(runs: list[Run], axis: str, protocols: list[str] | None = None) -> Figure:
    """Accuracy (H of base-to-new) over a setting, a panel for each data set and the average, a line for each method.

    axis: a name in ``AXES`` or a config key such as OPTIM.MAX_EPOCH. protocols: which may be shown; of several, the one
    with the most points is. ``ValueError`` if no run has the setting.
    """
    if axis != "shots":  # with which recipes change: each has its own epochs in papers
        runs = in_series(runs, axis)
    values = {value for run in runs if (value := axis_value(run, axis)) is not None}
    tables = {value: build([run for run in runs if axis_value(run, axis) == value]) for value in sorted(values)}
    found = Counter(name for one in tables.values() for name in dict.fromkeys(table.protocol for table in one))
    protocol = max(protocols or found, key=lambda name: found[name], default="")
    if not found[protocol]:
        raise ValueError(f'no run has a number "{axis}" in its config; choose {", ".join(AXES)} or another config key')
    panels: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    several = len({run.backbone for run in runs}) > 1
    shown = [(value, table) for value, one in tables.items() for table in one if table.protocol == protocol]
    names = {name for _, table in shown for name in table.rows}
    for value, table in shown:
        suffix = f", {table.backbone}" if several else ""
        for dataset, method, point in _points(table, value, axis, names):
            panels[dataset][method + suffix].append(point)
    order = sorted(panels, key=lambda name: (name == AVERAGE, ORDER.get(name, 100), name))
    figure = _panels({name: panels[name] for name in order}, axis, _draw_curve)
    figure.supylabel(f"{COLUMN.get(protocol, 'accuracy')} (%)")
    return figure


def in_series(runs: list[Run], axis: str) -> list[Run]:
    """The runs with the setting, those that differ in nothing else under one name; single ones only if all are."""
    series: dict[object, list[Run]] = defaultdict(list)
    for run in runs:
        if axis_value(run, axis) is not None:
            series[_other_settings(run, axis)].append(run)
    long = [group for group in series.values() if len({axis_value(run, axis) for run in group}) > 1]
    return [replace(run, setting=_shortest(group)) for group in long or series.values() for run in group]


def _other_settings(run: Run, axis: str) -> object:
    names = sorted(name for name in run.config if name.startswith(RECIPE) and name not in axis_keys(run, axis))
    return run.method, run.backbone, run.shots, *((name, str(run.config[name])) for name in names)


def _shortest(runs: list[Run]) -> str:
    """The settings' name without what the axis added to it."""
    return min((run.setting for run in runs), key=lambda name: (len(name), name))


def axis_keys(run: Run, axis: str) -> list[str]:
    sections = ("", f"TRAINER.{run.method.upper()}.")
    return [section + key for key in AXES.get(axis, (axis,)) for section in sections]


def axis_value(run: Run, axis: str) -> float | None:
    """The setting of ``run`` on the axis; zero-shot runs have 0 shots, and nothing else."""
    if axis == "shots" or run.zero_shot:
        return run.shots if axis == "shots" else None
    values = (run.config.get(key) for key in axis_keys(run, axis))
    return next((value for value in values if isinstance(value, int | float) and value > 0), None)


def _points(table: Table, x: float, axis: str, names: set[str]) -> Iterator[tuple[str, str, Point]]:
    """(data set, method, point) of every result; papers' values only over shots, where theirs has the same.

    names: rows of all tables. A method's only setting here has a longer name where there are several.
    """
    for method, row in table.rows.items():
        for (dataset, column), result in row.items():
            longer = f"{method} {result.runs[0].setting}"
            if table.protocol != "base2new" or column == COLUMN["base2new"]:
                printed = result.published.value if result.published and axis == "shots" else math.nan
                point = (x, result.sample.mean, result.sample.half_width or 0.0, printed)
                yield dataset, longer if longer in names else method, point


def _draw_curve(axes: Axes, name: str, points: list[Point]) -> None:
    xs, means, errors, published = zip(*points)
    lines = axes.errorbar(xs, means, errors, marker="*" if len(xs) == 1 else "o", capsize=2, label=name)
    if not all(map(math.isnan, published)):
        axes.plot(xs, published, "x--", color=lines[0].get_color(), alpha=0.6, label=f"{name} (published)")


def epochs(runs: list[Run]) -> Figure:
    """Validation accuracy after each epoch where it was measured, else the loss; mean over seeds."""
    panels: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in (run for run in runs if run.history):
        measure = "val_accuracy" if all("val_accuracy" in epoch for epoch in run.history) else "loss"
        line = f"{run.method} {run.setting}".strip() + (f", {run.shots} shots" if run.shots > 0 else "")
        classes = "" if run.classes == "all" else f", {run.classes} classes"
        panels[f"{run.dataset}{classes}: {measure}"][line].append(run)
    if not panels:
        raise ValueError("no run has a training history: all of them are evaluations")
    return _panels(panels, "epoch", _draw_history)


def _draw_history(axes: Axes, method: str, runs: list[Run]) -> None:
    measure = axes.get_title().rsplit(": ", 1)[-1]
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for epoch in run.history:
            if measure in epoch:
                by_epoch[epoch["epoch"]].append(epoch[measure])
    axes.plot([*by_epoch], [fmean(values) for values in by_epoch.values()], marker=".", label=method)


def per_class(grids: list[Grid]) -> Figure:
    """Bars of the difference of every class, a panel for each data set."""

    def draw(axes: Axes, _: str, grid: Grid) -> None:
        differences = [row[-1] for row in grid.rows]
        axes.barh(range(len(differences)), differences, color=["C0" if value >= 0 else "C3" for value in differences])
        names = [row[3] for row in grid.rows] if len(differences) <= 40 else []
        axes.set_yticks(range(len(names)), names, fontsize=6)
        axes.invert_yaxis()

    panels = {grid.title.replace(": better", ":\nbetter"): {"": grid} for grid in grids}
    return _panels(panels, "difference (points)", draw)


def _panels(panels: dict[str, dict], x_label: str, draw: Callable[[Axes, str, object], None]) -> Figure:
    """A grid of panels; ``draw(axes, line's name, line's data)`` fills them."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.5 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, lines) in zip(grid.flat, panels.items()):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(x_label)
        for name, line in lines.items():
            draw(axes, name, line)
        if any(lines):
            axes.legend(fontsize=7)
    return figure
