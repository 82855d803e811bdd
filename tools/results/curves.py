"""Curves of accuracy over a setting: shots, depth, length or any number of the config."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .names import printed
from .rows import AVERAGE, ORDER, RECIPE, Result, Table
from .runs import Run
from .style import INTERVAL, LOOK, Style, add_legend, clipped, panels, styles
from .tables import build

# What a curve runs over: config keys, the first that a run has counts. Any other config key can be named as well.
AXES = {
    "shots": ("DATASET.NUM_SHOTS",),
    "depth": ("PROMPT_DEPTH", "PROMPT_DEPTH_TEXT", "PROMPT_DEPTH_VISION"),
    "length": ("N_CTX", "N_CTX_TEXT", "N_CTX_VISION"),
}
LABELS = {
    "shots": "shots (images a class)",
    "depth": "depth (layers)",
    "length": "length (tokens)",
    "OPTIM.MAX_EPOCH": "epochs",
}
COLUMN = {"base2new": "H"}  # what a curve or radar shows of a protocol; the accuracy of the others
MEASURE = {"H": "H of base and new (%)", "accuracy": "accuracy (%)"}
MOST_TICKS = 8


class Point(NamedTuple):
    x: float
    result: Result
    name: str  # of the row
    method: str
    published: float  # NaN if papers print nothing

    @property
    def zero_shot(self) -> bool:
        return all(run.zero_shot for run in self.result.runs)


@plt.rc_context(LOOK)
def curves(runs: list[Run], axis: str, protocols: list[str] | None = None) -> Figure:
    """Accuracy (H of base-to-new) over a setting, a panel for each data set and the average, a line for each method.

    axis: a name in ``AXES`` or a config key such as OPTIM.MAX_EPOCH. protocols: which may be shown; of several, the one
    with the most points is. Zero-shot CLIP is a line across. ``ValueError`` if no run has the setting.
    """
    tables = _tables(runs, axis)
    found = Counter(name for one in tables.values() for name in dict.fromkeys(table.protocol for table in one))
    protocol = max(protocols or found, key=lambda name: found[name], default="")
    if not found[protocol]:
        raise ValueError(f'no run has a number "{axis}" in its config; choose {", ".join(AXES)} or another config key')
    shown = [(value, table) for value, one in tables.items() for table in one if table.protocol == protocol]
    by_panel: dict[str, list[Point]] = defaultdict(list)
    for dataset, point in _renamed(_in_lines([*_points(shown, axis)])):
        by_panel[dataset].append(point)
    values = sorted({point.x for points in by_panel.values() for point in points if not point.zero_shot}, key=_position)
    order = sorted(_with_lines(by_panel), key=lambda name: (name == AVERAGE, ORDER.get(name, 100), name))
    figure, grid = panels([printed(name) for name in order])
    look = styles((point.name, point.method) for name in order for point in by_panel[name])
    for axes, name in zip(grid, order):
        _draw(axes, _comparable(by_panel[name]), look, max(values))
        _set_ticks(axes, values, axis)
        axes.set_xlabel(LABELS.get(axis, axis))
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(f"{MEASURE[COLUMN.get(protocol, 'accuracy')]}\n{INTERVAL}")
    add_legend(figure, grid)
    return figure


def _tables(runs: list[Run], axis: str) -> dict[float, list[Table]]:
    """Tables of the runs with each value, zero-shot CLIP on the same data sets among them."""
    learned = [run for run in runs if not run.zero_shot]
    if axis != "shots":  # with which recipes change: each has its own epochs in papers
        learned = in_series(learned, axis)
    tables = {}
    for value in sorted({value for run in learned if (value := axis_value(run, axis)) is not None}, key=_position):
        group = [run for run in learned if axis_value(run, axis) == value]
        datasets = {run.dataset for run in group}
        beside = [run for run in runs if run.zero_shot and run.dataset in datasets]
        built = build(group + beside)
        tables[value] = [table for table in built if not all(_is_zero_shot(row) for row in table.rows.values())]
    return tables


def _is_zero_shot(row: dict) -> bool:
    return all(run.zero_shot for result in row.values() for run in result.runs)


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
    """The setting of a trained ``run`` on the axis; -1 shots are all images."""
    if axis == "shots":
        return run.shots
    values = (run.config.get(key) for key in axis_keys(run, axis))
    return next((value for value in values if isinstance(value, int | float) and value > 0), None)


def _points(shown: list[tuple[float, Table]], axis: str) -> Iterator[tuple[str, Point]]:
    """(data set, point) of every result; papers' values only over shots, where theirs has the same.

    A method's only setting at one value has a longer name where it has several at another.
    """
    names = {name for _, table in shown for name in table.rows}
    several = len({table.backbone for _, table in shown}) > 1
    for x, table in shown:
        for method, row in table.rows.items():
            for (dataset, column), result in row.items():
                if table.protocol == "base2new" and column != COLUMN["base2new"]:
                    continue
                longer = f"{method} {result.runs[0].setting}"
                name = (longer if longer in names else method) + (f", {table.backbone}" if several else "")
                number = result.published.value if result.published and axis == "shots" else math.nan
                yield dataset, Point(x, result, name, result.runs[0].method, number)


def _in_lines(points: list[tuple[str, Point]]) -> list[tuple[str, Point]]:
    """Zero-shot CLIP and what has results at several values; if nothing has, everything."""
    values: dict[str, set[float]] = defaultdict(set)
    for _, point in points:
        values[point.name].add(point.x)
    long = {name for name, xs in values.items() if len(xs) > 1}
    lines = [(dataset, point) for dataset, point in points if point.zero_shot or point.name in long]
    return lines if any(not point.zero_shot for _, point in lines) else points


def _with_lines(by_panel: dict[str, list[Point]]) -> list[str]:
    """The panels where something has results at several values; all of them if there is none."""
    lines = {
        panel: {(point.name, point.x) for point in points if not point.zero_shot} for panel, points in by_panel.items()
    }
    found = [panel for panel, points in lines.items() if len({name for name, _ in points}) < len(points)]
    return found or [*by_panel]


def _renamed(points: list[tuple[str, Point]]) -> list[tuple[str, Point]]:
    """The method's name alone where it has one line."""
    names: dict[str, set[str]] = defaultdict(set)
    for _, point in points:
        names[point.method].add(point.name)
    return [
        (dataset, point._replace(name=point.method) if len(names[point.method]) == 1 else point)
        for dataset, point in points
    ]


def _comparable(points: list[Point]) -> list[Point]:
    """Averages over fewer data sets than the others' are left out."""
    most = max(len(point.result.datasets) for point in points)
    return [point for point in points if len(point.result.datasets) == most]


def _draw(axes: Axes, points: list[Point], look: dict[str, Style], highest: float) -> None:
    lines: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        lines[point.name].append(point)
    for name, line in lines.items():
        if line[0].zero_shot:
            level = line[0].result.sample.mean
            axes.axhline(level, color=look[name].colour, linestyle=look[name].line, label=name, zorder=1)
            continue
        xs = [_position(point.x, highest) for point in line]
        means = [point.result.sample.mean for point in line]
        sides = zip(*(clipped(point.result.sample.mean, point.result.sample.half_width) for point in line))
        axes.errorbar(xs, means, [*sides], capsize=2, elinewidth=0.7, label=name, **look[name].curve)
        if not all(math.isnan(point.published) for point in line):
            numbers, colour = [point.published for point in line], look[name].colour
            axes.plot(xs, numbers, marker="x", linestyle=":", color=colour, label=f"{name} (published)")


def _position(x: float, highest: float = math.inf) -> float:
    """All images stand one doubling behind the most shots."""
    return x if x > 0 else 2 * max(highest, 1)


def _set_ticks(axes: Axes, values: list[float], axis: str) -> None:
    """A tick at every value if these are whole numbers and few; shots on a scale of doublings."""
    if axis == "shots":
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    if all(value == int(value) for value in values):
        ticks = sorted({*values}, key=_position)
        if len(ticks) <= MOST_TICKS or axis == "shots":
            places = [_position(value, max(values)) for value in ticks]
            axes.set_xticks(places, ["all" if value < 0 else str(int(value)) for value in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
