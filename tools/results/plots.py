"""Figures of the papers: bars, radar over data sets, training, per-class differences; ``curves`` has the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .curves import COLUMN, MEASURE, curves
from .names import printed
from .render import BY_DATASET, Grid, heading, printed_title
from .rows import AVERAGE, Key, Table
from .runs import Run, warn
from .style import (
    COLOURS,
    COLUMN_WIDTH,
    INTERVAL,
    LOOK,
    PAGE_WIDTH,
    Style,
    add_legend,
    check_ending,
    clipped,
    panels,
    save,
    styles,
)

__all__ = ["bars", "check_ending", "curves", "epochs", "per_class", "radar", "save"]

BAR_PANELS = 4  # side by side
MOST_CLASSES = 120  # of a panel; of more, the two ends are shown


def _looks(tables: list[Table]) -> dict[str, Style]:
    results = [(name, result) for table in tables for name, row in table.rows.items() for result in row.values()]
    return styles((name, one.runs[0].method if one.runs else one.published.method) for name, one in results)


# Radar


@plt.rc_context(LOOK)
def radar(tables: list[Table]) -> Figure:
    """One polygon for each method over the data sets of the first table that has at least three."""
    for table in tables:
        column = COLUMN.get(table.protocol, "accuracy")
        datasets = _trained_on(table, column)
        if len(datasets) >= 3:
            return _radar(table, datasets, column)
    raise ValueError("a radar plot needs a table with at least three data sets (base2new, xd or dg)")


def _trained_on(table: Table, column: str) -> list[str]:
    """The data sets of all methods but zero-shot CLIP, which may have been evaluated on more."""
    learned = [row for row in table.rows.values() if not all(run.zero_shot for one in row.values() for run in one.runs)]
    found = {key for row in learned or table.rows.values() for key in row}
    return [name for name, one in table.places() if one == column and name != AVERAGE and (name, one) in found]


def _radar(table: Table, datasets: list[str], column: str) -> Figure:
    """Every axis ends at its best method, whose value stands beside it; all axes have the same unit."""
    rows = {name: row for name, row in table.rows.items() if all((dataset, column) in row for dataset in datasets)}
    if missing := table.rows.keys() - rows.keys():
        warn(f"not in the radar, since some data sets are missing: {', '.join(sorted(missing))}")
    if not rows:
        raise ValueError(f"no method has results on all of {', '.join(datasets)}; choose some with --dataset")
    figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 3.1), subplot_kw={"polar": True}, layout="constrained")
    angles = [2 * math.pi * place / len(datasets) for place in range(len(datasets))]
    best = [max(row[name, column].value for row in rows.values()) for name in datasets]
    looks = _looks([table])
    for method, row in rows.items():
        behind = [row[name, column].value - largest for name, largest in zip(datasets, best)]
        axes.plot([*angles, angles[0]], [*behind, behind[0]], label=method, clip_on=False, **looks[method].curve)
    low, _ = axes.get_ylim()
    axes.set_ylim(min(low * 1.2, -1), 0)
    axes.set_xticks(angles, [""] * len(angles))
    levels = [level for level in MaxNLocator(4, integer=True).tick_values(*axes.get_ylim()) if low < level < 0]
    axes.set_yticks(levels, [""] * len(levels))
    for level in levels:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        axes.text(math.pi / len(datasets), level, f"{level:.0f}", fontsize=6, ha="center", va="center", bbox=box)
    for angle, name, value in zip(angles, datasets, best):
        _name_axis(axes, angle, f"{printed(name)}\n{value:.1f}")
    figure.suptitle(f"{printed_title(table)}\n{MEASURE[column]}, in points behind the best", fontsize=8)
    add_legend(figure, [axes])
    return figure


def _name_axis(axes: Axes, angle: float, text: str) -> None:
    """Outside of the circle, and away from it."""
    across, up = math.cos(angle), math.sin(angle)
    across_side = "left" if across > 0.1 else "right" if across < -0.1 else "center"
    up_side = "bottom" if up > 0.3 else "top" if up < -0.3 else "center"
    options = {"ha": across_side, "va": up_side, "textcoords": "offset points", "fontsize": 7}
    axes.annotate(text, (angle, 0), (7 * across, 7 * up), annotation_clip=False, **options)


# Bars


@plt.rc_context(LOOK)
def bars(tables: list[Table]) -> Figure:
    """Every number of the tables with its interval; of base-to-new and few-shot a panel for each data set."""
    looks, grids = _looks(tables), [_panels_of(table) for table in tables]
    heights = [0.5 + 1.6 * math.ceil(len(grid) / BAR_PANELS) for grid in grids]
    figure = plt.figure(figsize=(PAGE_WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights)
    drawn = []
    for part, table, grid in zip(parts.flat, tables, grids):
        columns = min(BAR_PANELS, len(grid))
        room = part.subplots(math.ceil(len(grid) / columns), columns, sharey=True, squeeze=False)
        for axes in room.flat[len(grid) :]:
            axes.set_visible(False)
        for axes, (name, places) in zip(room.flat, grid.items()):
            axes.set_title(printed(name))
            _draw_bars(axes, table, places, looks)
            drawn.append(axes)
        part.suptitle(printed_title(table), fontsize=8)
        part.supylabel(f"accuracy (%)\n{INTERVAL}", fontsize=7)
    add_legend(figure, drawn)
    return figure


def _panels_of(table: Table) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = defaultdict(list)
    for place in table.places():
        found[place[0] if table.protocol in BY_DATASET else ""].append(place)
    return found


def _draw_bars(axes: Axes, table: Table, places: list[Key], looks: dict[str, Style]) -> None:
    """A group for each place, a bar for each method."""
    width = 0.8 / len(table.rows)
    for number, (method, row) in enumerate(table.rows.items()):
        found = [(place, row[key].sample) for place, key in enumerate(places) if key in row and row[key].sample]
        at = [place + (number - (len(table.rows) - 1) / 2) * width for place, _ in found]
        sides = zip(*(clipped(sample.mean, sample.half_width) for _, sample in found))
        style = {"yerr": [*sides] or None, "capsize": 1, "error_kw": {"elinewidth": 0.6, "capthick": 0.6}}
        axes.bar(at, [sample.mean for _, sample in found], width, label=method, **style, **looks[method].bar)
    by_dataset = table.protocol in BY_DATASET
    axes.set_xticks(range(len(places)), [_tick(key, table) for key in places])
    if not by_dataset and len(places) > 5:
        plt.setp(axes.get_xticklabels(), rotation=25, ha="right", rotation_mode="anchor")
    elif table.protocol == "fewshot":
        axes.set_xlabel("shots")
    axes.grid(visible=False, axis="x")


def _tick(key: Key, table: Table) -> str:
    if table.protocol in BY_DATASET:
        return key[1]
    return heading(key, table, printed).replace(" (", "\n(")


# Training


@plt.rc_context(LOOK)
def epochs(runs: list[Run]) -> Figure:
    """Validation accuracy after each epoch where it was measured, else the loss; mean over seeds."""
    found: dict[tuple[str, str], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in (run for run in runs if run.history):
        measure = "val_accuracy" if all("val_accuracy" in epoch for epoch in run.history) else "loss"
        line = f"{run.method} {run.setting}".strip() + (f", {run.shots} shots" if run.shots > 0 else "")
        classes = "" if run.classes == "all" else f", {run.classes} classes"
        found[printed(run.dataset) + classes, measure][line].append(run)
    if not found:
        raise ValueError("no run has a training history: all of them are evaluations")
    figure, grid = panels([title for title, _ in found])
    looks = styles((name, runs[0].method) for lines in found.values() for name, runs in lines.items())
    for axes, ((_, measure), lines) in zip(grid, found.items()):
        for name, runs in lines.items():
            _draw_history(axes, measure, name, runs, looks[name])
        axes.set_ylabel({"val_accuracy": "validation accuracy (%)"}.get(measure, measure))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    add_legend(figure, grid)
    return figure


def _draw_history(axes: Axes, measure: str, name: str, runs: list[Run], style: Style) -> None:
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for epoch in run.history:
            if measure in epoch:
                by_epoch[epoch["epoch"]].append(epoch[measure])
    means = [fmean(values) for values in by_epoch.values()]
    axes.plot([*by_epoch], means, label=name, markevery=max(1, len(means) // 8), **style.curve)


# Classes


@plt.rc_context(LOOK)
def per_class(grids: list[Grid], first: str, second: str) -> Figure:
    """Bars of the difference of every class with its name, a panel for each data set."""
    columns = min(2, len(grids))
    shown = [[(str(row[3]), row[-1]) for row in grid.rows] for grid in grids]
    ends = [_ends(rows) for rows in shown]
    tallest = [max(map(len, ends[row : row + columns])) for row in range(0, len(ends), columns)]
    heights = [0.7 + 0.11 * classes for classes in tallest]
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    room = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in room.flat[len(grids) :]:
        axes.set_visible(False)
    for axes, grid, rows, ends_of in zip(room.flat, grids, shown, ends):
        dataset, half = grid.rows[0][:2]
        better = f"{first} better on {sum(value > 0 for _, value in rows)} of {len(rows)}"
        axes.set_title(f"{printed(dataset)}, {half} classes: {better}" + _left_out(rows), fontsize=7)
        _draw_classes(axes, ends_of, tallest[axes.get_subplotspec().rowspan.start])
        axes.set_xlabel(f"{first} - {second} (points)")
    return figure


def _ends(rows: list[tuple[str, float]]) -> list[tuple[str, float]]:
    half = MOST_CLASSES // 2
    return rows if len(rows) <= MOST_CLASSES else [*rows[:half], *rows[-half:]]


def _left_out(rows: list[tuple[str, float]]) -> str:
    half = MOST_CLASSES // 2
    return f"\n(the {half} first and the {half} last)" if len(rows) > MOST_CLASSES else ""


def _draw_classes(axes: Axes, rows: list[tuple[str, float]], room: int) -> None:
    """room: for how many classes; bars are as thick as in the panel beside."""
    differences = [value for _, value in rows]
    axes.barh(range(len(rows)), differences, color=[COLOURS[0 if value >= 0 else 6] for value in differences])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=6)
    axes.set_ylim(room - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
