"""The look of every figure: sizes of a paper's columns, fonts that are part of the file, one style for each method."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from configs import methods
from dassl.utils import atomic_write

COLUMN_WIDTH, PAGE_WIDTH = 3.35, 6.9  # inches, of a paper with two columns
PANELS = 3  # side by side on a page
INTERVAL = "95 % interval over seeds"
LOOK = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.markersize": 4,
    "lines.linewidth": 1.2,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.5,
    "hatch.linewidth": 0.8,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: journals refuse the default, type 3
    "ps.fonttype": 42,
}
# Ten colours that stay apart under the common colour-vision deficiencies: Petroff, arXiv:2107.02270, figure 5.
COLOURS = (
    *("#3f90da", "#92dadd", "#b9ac70", "#94a4a2", "#832db6"),
    *("#ffa90e", "#bd1f01", "#e76300", "#a96b59", "#717581"),
)
MARKERS = "osD^vP<>X*hp"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "/////", ".....", "xxxxx")
ZERO_SHOT = "0.15"


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str
    line: str
    hatch: str
    filled: bool = True

    @property
    def curve(self) -> dict[str, object]:
        face = self.colour if self.filled else "white"
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}

    @property
    def bar(self) -> dict[str, object]:
        return {"color": self.colour, "hatch": self.hatch, "edgecolor": "white", "linewidth": 0}


def styles(rows: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each (row's name, its method): a method's colour and marker are the same in every figure.

    Further rows of one method have its colour, paler, and another line, marker and hatch; zero-shot CLIPs are black.
    """
    learned = [row.printed for row in methods().values() if not row.zero_shot]
    frozen = [row.printed for row in methods().values() if row.zero_shot]
    seen: Counter[str] = Counter()
    found = {}
    for name, method in dict.fromkeys(rows):
        kind = "zero-shot" if method in frozen else method
        variant, seen[kind] = seen[kind], seen[kind] + 1
        if method in frozen:
            found[name] = Style(ZERO_SHOT, "", LINES[1 + variant % 3], HATCHES[variant % len(HATCHES)])
            continue
        learned += [] if method in learned else [method]  # a method from outside
        found[name] = _style(learned.index(method), variant)
    return found


def _style(method: int, variant: int) -> Style:
    turn = method // len(COLOURS) + variant
    paler = (0, 0.35, 0.15, 0.5)[turn % 4]
    colour = to_hex([part + (1 - part) * paler for part in to_rgb(COLOURS[method % len(COLOURS)])])
    marker = MARKERS[(method + 5 * (turn // 2)) % len(MARKERS)]
    return Style(colour, marker, LINES[turn % len(LINES)], HATCHES[turn % len(HATCHES)], turn % 2 == 0)


def clipped(mean: float, half_width: float | None) -> tuple[float, float]:
    """How far an interval goes below and above ``mean`` inside [0, 100], where an accuracy lies."""
    width = half_width or 0.0
    return min(width, mean), min(width, 100 - mean)


def panels(titles: Sequence[str], height: float = 1.9) -> tuple[Figure, list[Axes]]:
    """A page of panels, or one as wide as a column; ``height`` of one in inches."""
    columns = min(PANELS, len(titles))
    rows = math.ceil(len(titles) / columns)
    size = (COLUMN_WIDTH if columns == 1 else PAGE_WIDTH, height * rows + 0.4)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(titles) :]:
        axes.set_visible(False)
    for axes, title in zip(grid.flat, titles):
        axes.set_title(title)
    return figure, [*grid.flat[: len(titles)]]


def add_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One for all panels, below them; every name once."""
    found = {name: handle for one in axes for handle, name in zip(*one.get_legend_handles_labels())}
    if found:
        widest = max(map(len, found)) * 0.055 + 0.5  # inches
        columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
        figure.set_figheight(figure.get_figheight() + 0.15 * math.ceil(len(found) / columns))
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False)


def check_ending(path: Path) -> str:
    """The format of the file's ending; ``ValueError`` for an unknown one."""
    form, known = path.suffix.lstrip(".").lower(), Figure().canvas.get_supported_filetypes()
    if form not in known:
        raise ValueError(f'cannot plot to "{path}": choose an ending out of {", ".join(sorted(known))}')
    return form


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of the file's ending, atomically; ``ValueError`` for an unknown ending."""
    form = check_ending(path)
    with plt.rc_context(LOOK), atomic_write(os.fspath(path)) as file:
        figure.savefig(file, format=form)
    plt.close(figure)
