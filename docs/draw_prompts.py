"""Draws docs/prompts.png, the figure of docs/method.md: where prompts stand, and what one layer does with them.

python docs/draw_prompts.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

VIEWS = {"q": "#e0604a", "k": "#ffc45c", "v": "#7db8ec"}
ROW, PROMPT, EDGE = "#e9e9e9", "#b3b3b3", "#444444"
LONG = 2.1  # height of a row in a column of rows


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str = "", colour: str = "white", **look):
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=EDGE, linewidth=0.6))
    axes.text(x + width / 2, y + height / 2 - 0.1, text, ha="center", va="center", **look)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = EDGE):
    """Straight pieces through all points, a head at the last."""
    axes.plot(*zip(*points[:-1]), color=colour, linewidth=0.8, solid_capstyle="butt")
    options = {"arrowstyle": "-|>", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 7}
    axes.annotate("", points[-1], points[-2], arrowprops=options)


def strip(axes: Axes, x: float, y: float, name: str, rows: list[tuple[str, float]], read: str):
    """The rows of an encoder side by side; the one that is read at the end has a mark below."""
    axes.text(x, y + 5.2, name, weight="bold")
    for text, width in rows:
        box(axes, x, y, width, 3.8, text, PROMPT if text.startswith("$P") else ROW, fontsize=7)
        if text == read:
            arrow(axes, (x + width / 2, y), (x + width / 2, y - 2.4))
            axes.text(x + width / 2 + 1, y - 2, "read after layer $L$", fontsize=6.5, va="center")
        x += width


def column(axes: Axes, x: float, y: float, colour: str) -> float:
    """Four ordinary rows above two prompt rows; returns the height of the middle."""
    for place in range(6):
        box(axes, x, y + LONG * place, 5, LONG, colour=colour if place < 2 else ROW)
    return y + 3 * LONG


def draw_rows(axes: Axes):
    prompts = [(f"$P_{number}$", 3.6) for number in (1, 2, 3, 4)]
    patches = [("patch", 6.2), ("patch", 6.2), ("...", 3.2), ("patch", 6.2)]
    text = [("SOS", 5.2), *prompts, ("red", 5), ("circle", 6.5), (".", 2.5), ("EOS", 5.2)]
    strip(axes, 1, 66.5, "Text encoder, one text per class", text, "EOS")
    strip(axes, 1, 53.5, "Vision encoder, one image", [("CLS", 5.2), *patches, *prompts], "CLS")


def draw_layers(axes: Axes):
    axes.text(55, 71.7, "Layers of each encoder", weight="bold")
    for place, text in enumerate(["1", "2", "...", "$J$", "$J$+1", "...", "$L$"]):
        x = 55 + 6.2 * place
        box(axes, x, 62, 5, 8.3, text)
        if place < 4:
            for number, colour in enumerate(VIEWS.values()):
                box(axes, x + 0.5 + 1.4 * number, 58.6, 1.2, 2.2, colour=colour)
    axes.text(55, 56.9, "prompted: own $P_q$, $P_k$, $P_v$\nin every layer", fontsize=7, va="top")
    axes.text(79.8, 60.9, "prompt rows stay\nas they come", fontsize=7, va="top")


def draw_layer(axes: Axes):
    axes.text(1, 46, "One prompted layer", weight="bold")
    middle = column(axes, 3, 16, PROMPT)
    axes.text(5.5, 30, "$X$", ha="center")
    axes.text(5.5, 15.2, "prompt\nrows", ha="center", va="top", fontsize=7)
    box(axes, 63, 9, 6, 35, "Attention", rotation=90)
    for place, (view, colour) in enumerate(VIEWS.items()):
        y = 31.5 - 14 * place
        centre = column(axes, 22, y, colour)
        arrow(axes, (8.3, middle), (13, middle), (13, centre), (21.6, centre))
        axes.text(28, y + LONG, f"$P_{view}$ in place of\nthe prompt rows", va="center", fontsize=7)
        arrow(axes, (27.3, centre), (43.6, centre))
        box(axes, 44, centre - 2, 11, 4, f"LN1, $W_{view}$", fontsize=7.5)
        arrow(axes, (55, centre), (62.6, centre))
        axes.text(58.6, centre + 0.6, f"${view.upper()}$", ha="center")
    axes.text(17.3, 38.8, "Rep($X$, $P_q$)", ha="center", fontsize=7)
    arrow(axes, (69, 24), (73.8, 24))
    axes.text(71.2, 24.6, "$W_o$", ha="center", fontsize=7.5)
    axes.add_patch(Circle((75.3, 24), 1.4, facecolor="white", edgecolor=EDGE, linewidth=0.6))
    axes.text(75.3, 23.85, "+", ha="center", va="center")
    arrow(axes, (10.5, middle), (10.5, 1.2), (75.3, 1.2), (75.3, 22.5))
    residual = "residual stream $R$:  carry: $X$, its prompt rows as they came;  query: $X$ with $P_q$ in them"
    axes.text(12, 2, residual, fontsize=7)
    arrow(axes, (76.7, 24), (79.6, 24))
    box(axes, 80, 20, 8, 8, "+ MLP\n(LN2)", fontsize=7.5)
    arrow(axes, (88, 24), (91.6, 24))
    column(axes, 92, 24 - 3 * LONG, PROMPT)
    axes.text(94.5, 31.7, "$X'$", ha="center")
    axes.text(94.5, 16.6, "prompt rows:\nreplaced again\nin layers $\\leq J$", ha="center", va="top", fontsize=7)


def main() -> None:
    plt.rcParams.update({"font.size": 8, "mathtext.fontset": "dejavusans"})
    figure = plt.figure(figsize=(7.2, 5.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 101), ylim=(0, 75))
    axes.axis("off")
    axes.axhline(49.5, color="#cccccc", linewidth=0.8)
    for draw in (draw_rows, draw_layers, draw_layer):
        draw(axes)
    figure.savefig(Path(__file__).with_name("prompts.png"), dpi=160)


if __name__ == "__main__":
    main()
