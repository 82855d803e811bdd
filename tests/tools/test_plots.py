"""Figures of ``python -m tools.results --plot``: every kind makes a file, and what is drawn are our means."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from tests.tools.runs_on_disk import STEMS, classes, make_pair, make_run
from tools.results.__main__ import main
from tools.results.runs import read_runs
from tools.results.tables import build


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No figure stays open."""
    yield
    plt.close("all")


@pytest.fixture
def plotted(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for dataset in STEMS:
        for seed in (1, 2):
            make_pair(root, 80.0 + seed, 70.0 + seed, seed, dataset=dataset, per_class=classes(50.0, 70.0))
    for shots in (1, 4):
        for seed in (1, 2):
            make_run(
                root / f"dtd/CoOp/x{shots}_{shots}shots/seed{seed}",
                50.0 + shots + seed,
                {"TRAINER": {"COOP": {"N_CTX": 4 * shots}}, "OPTIM": {"MAX_EPOCH": 10 * shots}},
                trainer="CoOp",
                num_shots=shots,
                history=[{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}],
            )
    make_run(root / "rpp/seed1", 60.0, trainer="RPP", subsample_classes="base", per_class=classes(40.0, 80.0))
    return root


@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        (["radar"], "pdf"),
        (["bars"], "png"),
        (["shots"], "png"),
        (["length"], "png"),
        (["OPTIM.MAX_EPOCH"], "svg"),
        (["epochs"], "png"),
        (["per-class", "--per-class", "MaPLe", "RPP"], "png"),
    ],
)
def test_plots_make_a_file(plotted: Path, tmp_path: Path, arguments: list[str], ending: str):
    out = tmp_path / f"figure.{ending}"
    assert main([str(plotted), "--plot", *arguments, "--out", str(out)]) == 0
    start = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}[ending]
    assert out.read_bytes().startswith(start) and out.stat().st_size > 5000


def test_bars_have_our_means_and_intervals(plotted: Path):
    from tools.results.plots import bars

    (table,) = [table for table in build(read_runs([plotted])) if table.protocol == "base2new"]
    axes = next(axes for axes in bars([table]).axes if axes.get_title() == "DTD")
    maple = next(one for one in axes.containers if one.get_label() == "MaPLe")
    bases, news, hs = (bar.get_height() for bar in maple)
    assert (bases, news, hs) == pytest.approx((81.5, 71.5, 2 * 81.5 * 71.5 / 153))
    low, high = maple.errorbar.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((81.5 - 6.35, 81.5 + 6.35), abs=0.01)  # of 81 and 82


def test_curve_over_shots_has_our_means(plotted: Path):
    from tools.results.plots import curves

    figure = curves(read_runs([plotted]), "shots")
    (panel,) = [axes for axes in figure.axes if axes.get_title() == "DTD"]
    ours = {tuple(line.get_xdata()): [*line.get_ydata()] for line in panel.get_lines() if line.get_marker() == "o"}
    assert ours == {(1, 4): [52.5, 55.5]}


def points(figure, dataset: str) -> dict[str, list[tuple[float, float]]]:
    """(x, y) of every line in the panel, by the line's name."""
    (panel,) = [axes for axes in figure.axes if axes.get_title() == dataset]
    lines = dict(zip(panel.get_legend_handles_labels()[1], panel.containers))
    return {name: [*zip(*(map(float, data) for data in line[0].get_data()))] for name, line in lines.items()}


@pytest.fixture
def two_grids(tmp_path: Path) -> Path:
    """Depths with two tokens, lengths with depth 9, crossing in the plain run, which has fewer shots too."""
    for depth, length, shots in ((1, 2, 16), (3, 2, 16), (9, 2, 16), (9, 4, 16), (9, 8, 16), (9, 2, 4)):
        end = f"-prompt_depth_{depth}" * (depth != 9) + f"-n_ctx_{length}" * (length != 2)
        config = {"TRAINER": {"MAPLE": {"PROMPT_DEPTH": depth, "N_CTX": length}}, "OPTIM": {"MAX_EPOCH": 5}}
        for seed in (1, 2):
            where = f"dtd/shots_{shots}/MaPLe/vit_b16_c2_ep5_batch4_2ctx{end}/seed{seed}"
            accuracy = 50.0 + depth + length
            for half, classes_of in (("train_base", "base"), ("test_new", "new")):
                folder = tmp_path / "base2new" / half / where
                make_run(folder, accuracy, config, subsample_classes=classes_of, eval_only=classes_of == "new")
    return tmp_path


def test_curves_of_two_grids_are_a_line_each(two_grids: Path):
    from tools.results.plots import curves

    runs = read_runs([two_grids])
    assert points(curves(runs, "depth"), "DTD") == {"MaPLe": [(1, 53), (3, 55), (9, 61)]}
    assert points(curves(runs, "length"), "DTD") == {"MaPLe": [(2, 61), (4, 63), (8, 67)]}


def test_curves_of_two_recipes_keep_their_names(two_grids: Path):
    from tools.results.plots import curves

    for depth in (1, 3):
        config = {"TRAINER": {"MAPLE": {"PROMPT_DEPTH": depth, "N_CTX": 2}}, "OPTIM": {"MAX_EPOCH": 7}}
        where = f"dtd/shots_16/MaPLe/long-prompt_depth_{depth}/seed1"
        make_run(two_grids / "base2new/train_base" / where, 80.0, config, subsample_classes="base")
        make_run(two_grids / "base2new/test_new" / where, 80.0, config, subsample_classes="new", eval_only=True)
    assert points(curves(read_runs([two_grids]), "depth"), "DTD") == {
        "MaPLe long-prompt_depth_1": [(1, 80), (3, 80)],
        "MaPLe vit_b16_c2_ep5_batch4_2ctx": [(1, 53), (3, 55), (9, 61)],
    }


def test_plot_to_an_unknown_ending_leaves_nothing(plotted: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([str(plotted), "--plot", "shots", "--out", str(tmp_path / "a.docx")]) == 2
    assert "choose an ending" in capsys.readouterr().err and not (tmp_path / "a.docx").exists()
