"""Figures as papers print them: nothing covered, everything named, readable in a column and without colour vision."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from configs import methods
from tests.tools.runs_on_disk import STEMS, classes, make_pair, make_run
from tools.results import plots, style
from tools.results.__main__ import main
from tools.results.per_class import per_class_grids
from tools.results.runs import read_runs
from tools.results.tables import build


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open."""
    yield
    plt.close("all")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Base-to-new on four sets, few-shot on one with 1, 4 and all images, zero-shot CLIP, a radar's missing method."""
    for dataset, stem in STEMS.items():
        for half, accuracy in (("base", 60.0), ("new", 65.0), ("all", 40.0)):
            folder = tmp_path / f"zero/{half}/{stem}/seed1"
            make_run(folder, accuracy, trainer="ZeroshotCLIP", dataset=dataset, subsample_classes=half, eval_only=True)
        for seed in (1, 2):
            make_pair(tmp_path, 80.0 + seed, 70.0 + seed, seed, dataset=dataset, per_class=classes(50.0, 70.0))
            if stem != "dtd":
                make_pair(tmp_path, 75.0 + seed, 70.0, seed, dataset=dataset, trainer="IVLP")
    for shots, accuracies in ((1, (1.0, 15.0)), (4, (50.0, 51.0)), (-1, (70.0, 71.0))):
        for seed, accuracy in enumerate(accuracies, start=1):
            history = [{"epoch": epoch, "loss": 2.0 / epoch} for epoch in (1, 2, 3)]
            folder = tmp_path / f"dtd/CoOp/x_{shots}shots/seed{seed}"
            make_run(folder, accuracy, trainer="CoOp", num_shots=shots, history=history)
    return tmp_path


def figures(root: Path) -> dict[str, Figure]:
    runs = read_runs([root])
    tables = build(runs)
    return {
        "bars": plots.bars(tables),
        "radar": plots.radar([table for table in tables if table.protocol == "base2new"]),
        "shots": plots.curves(runs, "shots", ["fewshot"]),
        "epochs": plots.epochs(runs),
    }


def covered(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of which one lies on the other."""
    figure.canvas.draw()
    found = [(text.get_text(), text.get_window_extent()) for text in figure.findobj(Text)]
    boxes = [(text, box.padded(-1)) for text, box in found if text.strip() and box.width > 2]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def test_one_legend_a_figure_and_no_text_on_another(root: Path):
    for kind, figure in figures(root).items():
        assert len(figure.legends) == 1 and not any(axes.get_legend() for axes in figure.axes), kind
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(set(names)) == len(names), kind
        assert covered(figure) == [], kind


def test_shots_are_doublings_with_intervals_inside_and_zero_shot_across(root: Path):
    (panel,) = figures(root)["shots"].axes
    assert panel.get_title() == "DTD"
    transform = panel.transData.transform
    one, four, everything = (transform((place, 0))[0] for place in panel.get_xticks())
    assert four - one == pytest.approx(2 * (everything - four))  # two doublings, and all images one behind
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "4", "all"]
    segments = panel.containers[0].lines[2][0].get_segments()
    assert segments[0][:, 1] == pytest.approx([0, 8 + 88.94], abs=0.01)  # of 1 and 15, below by as much
    (across,) = [line for line in panel.get_lines() if line.get_label() == "CLIP"]
    assert [*across.get_ydata()] == [40.0, 40.0] and [*across.get_xdata()] == [0, 1]  # from side to side
    assert "95 % interval" in panel.get_ylabel()


def test_depth_has_a_tick_at_every_value(tmp_path: Path):
    for depth in (1, 2, 9):
        for seed in (1, 2):
            config = {"TRAINER": {"MAPLE": {"PROMPT_DEPTH": depth}}}
            make_run(tmp_path / f"dtd/MaPLe/x-prompt_depth_{depth}_16shots/seed{seed}", 50.0 + depth, config)
    (panel,) = plots.curves(read_runs([tmp_path]), "depth").axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1", "2", "9"]
    assert [*panel.get_xticks()] == [1, 2, 9]


def test_curves_show_what_has_several_values(tmp_path: Path):
    """One method and one data set that have results at one depth only are left out."""
    for depth, method, stem, dataset in (
        *((depth, "MaPLe", "dtd", "DescribableTextures") for depth in (1, 9)),
        (9, "MaPLe", "eurosat", "EuroSAT"),
        (9, "IVLP", "dtd", "DescribableTextures"),
    ):
        config = {"TRAINER": {method.upper(): {"PROMPT_DEPTH": depth}}}
        make_run(tmp_path / f"{stem}/{method}/x{depth}_16shots/seed1", 50.0, config, trainer=method, dataset=dataset)
    figure = plots.curves(read_runs([tmp_path]), "depth")
    assert [axes.get_title() for axes in figure.axes] == ["DTD"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MaPLe"]


def test_radar_has_the_methods_with_all_sets_and_says_who_is_left_out(root: Path, capsys: pytest.CaptureFixture):
    figure = figures(root)["radar"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CLIP", "MaPLe"]
    assert "IVLP" in capsys.readouterr().err
    figure.canvas.draw()
    (axes,) = figure.axes
    centre, edge = (axes.transData.transform(place) for place in ((0, axes.get_ylim()[0]), (0, 0)))
    names = [text for text in axes.texts if "\n" in text.get_text()]
    for box in (text.get_window_extent() for text in names):  # outside of the circle
        nearest_point = np.clip(centre, (box.x0, box.y0), (box.x1, box.y1))
        assert np.linalg.norm(nearest_point - centre) > np.linalg.norm(edge - centre)
    assert len(names) == len(STEMS)


def test_a_hundred_classes_are_all_named_and_readable(tmp_path: Path):
    names = [{"label": i, "classname": f"a class of {i}", "accuracy": i % 7 * 10.0} for i in range(100)]
    make_run(tmp_path / "a/seed1", 50.0, trainer="CoOp", per_class=names)
    make_run(tmp_path / "b/seed1", 50.0, trainer="MaPLe", per_class=[{**row, "accuracy": 30.0} for row in names])
    grids = per_class_grids(read_runs([tmp_path]), "CoOp", "MaPLe")
    figure = plots.per_class(grids, "CoOp", "MaPLe")
    labels = figure.axes[0].get_yticklabels()
    assert {label.get_text() for label in labels} == {row["classname"] for row in names}
    assert covered(figure) == [] and min(label.get_fontsize() for label in labels) >= 5


def test_fonts_are_part_of_the_file_and_it_is_as_wide_as_a_column(root: Path, tmp_path: Path):
    for kind, inches in (("radar", style.COLUMN_WIDTH), ("bars", style.PAGE_WIDTH)):
        out = tmp_path / f"{kind}.pdf"
        assert main([str(root), "--plot", kind, "--out", str(out)]) == 0
        content = out.read_bytes()
        assert b"/Type3" not in content and b"/CIDFontType2" in content and b"/FontFile2" in content
        *_, width, _ = content.split(b"/MediaBox [")[1].split(b"]")[0].split()
        assert float(width) == pytest.approx(72 * inches, abs=0.1)


# What people without one kind of cone see of linear RGB: Machado, Oliveira, Fernandes 2009, table 1, severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def nearest(colours: tuple[str, ...], vision: str) -> float:
    """The smallest distance of two of the colours in CIELAB (sRGB, white D65)."""
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(lab, 2))


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart(vision: str):
    assert nearest(style.COLOURS, vision) > 11
    tableau = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
    assert vision == "normal" or nearest(tableau, vision) < 11  # matplotlib's own


def test_a_method_looks_the_same_in_every_figure_and_like_no_other():
    learned = [row.printed for row in methods().values() if not row.zero_shot]
    all_of_them = style.styles((name, name) for name in learned)
    assert style.styles([("RPP", "RPP")])["RPP"] == all_of_them["RPP"]
    assert len({(one.colour, one.marker) for one in all_of_them.values()}) == len(learned)
    variants = style.styles((f"RPP {number}", "RPP") for number in range(8))
    assert len({*variants.values()}) == 8 and variants["RPP 0"] == all_of_them["RPP"]
    assert variants["RPP 0"].filled and not variants["RPP 1"].filled
    frozen = style.styles((f"{number}", "CLIP") for number in range(3)).values()
    assert len({one.line for one in frozen}) == len({one.hatch for one in frozen}) == 3


def test_an_average_over_fewer_sets_stands_in_no_curve(tmp_path: Path):
    for method, stems in (("CoOp", ("dtd", "eurosat", "caltech101")), ("MaPLe", ("dtd", "eurosat"))):
        for dataset, stem in STEMS.items():
            for shots in (1, 4) if stem in stems else ():
                folder = tmp_path / f"{stem}/{method}/x_{shots}shots/seed1"
                make_run(folder, 50.0, trainer=method, dataset=dataset, num_shots=shots)
    figure = plots.curves(read_runs([tmp_path]), "shots")
    lines = {axes.get_title(): {one.get_label() for one in axes.containers} for axes in figure.axes}
    assert lines["DTD"] == {"CoOp", "MaPLe"} and lines["Average"] == {"CoOp"}


def test_of_a_thousand_classes_both_ends_are_shown(tmp_path: Path):
    names = [{"label": i, "classname": f"{i}", "accuracy": i / 10} for i in range(1000)]
    make_run(tmp_path / "a/seed1", 50.0, trainer="CoOp", per_class=names)
    make_run(tmp_path / "b/seed1", 50.0, trainer="MaPLe", per_class=[{**row, "accuracy": 50.0} for row in names])
    (axes,) = plots.per_class(per_class_grids(read_runs([tmp_path]), "CoOp", "MaPLe"), "CoOp", "MaPLe").axes
    shown = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert shown == [*range(999, 939, -1), *range(59, -1, -1)]
    assert "better on 499 of 1000" in axes.get_title() and "60 first" in axes.get_title()
