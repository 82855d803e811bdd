"""Differences of rows, seed by seed: by hand, in words, and from the command line."""

from pathlib import Path

import pytest

from tests.tools.runs_on_disk import make_pair, make_run
from tools.results.__main__ import main
from tools.results.paired import difference_table, find_row, sentences
from tools.results.runs import read_runs
from tools.results.tables import Table, build

FIRST, SECOND = {1: 71.0, 2: 75.0, 3: 73.0}, {1: 70.0, 2: 72.0, 3: 71.0}  # differences 1, 3, 2


@pytest.fixture
def tables(tmp_path: Path) -> list[Table]:
    """RPP in two settings and POMP, pretrained on the embedded source; zero-shot; three seeds."""
    for seed in FIRST:
        for method, setting, values in (
            ("RPP", "s", FIRST),
            ("RPP", "s-qkv_shared", {1: 70.0, 2: 76.0, 3: 73.0}),
            ("POMP", "s", SECOND),
        ):
            home = make_run(
                tmp_path / f"tiny_source/{method}/{setting}_8shots/seed{seed}",
                values[seed] - 40,
                trainer=method,
                dataset="TinySource",
                num_shots=8,
                backbone="tiny",
            )
            for target in ("shapes", "print"):
                make_run(
                    tmp_path / f"evaluation/{method}/{setting}_8shots/tiny_{target}/seed{seed}",
                    values[seed],
                    trainer=method,
                    dataset=f"Tiny{target.title()}",
                    eval_only=True,
                    model_dir=str(home),
                    backbone="tiny",
                )
    for name, value in (("shapes", 60.0), ("print", 70.0)):
        make_run(
            tmp_path / f"ZeroshotCLIP/tiny/tiny_{name}",
            value,
            trainer="ZeroshotCLIP",
            dataset=f"Tiny{name.title()}",
            eval_only=True,
            backbone="tiny",
        )
    return build(read_runs([tmp_path]))


def xd(tables: list[Table], *pairs: tuple[str, str]) -> Table:
    (table,) = [table for table in tables if table.protocol == "xd"]
    return difference_table(table, pairs)


def test_a_difference_is_that_of_equal_seeds(tables: list[Table]) -> None:
    """Mean 2 of 1, 3, 2, whose interval is narrower than that of either row: t(0.975, 2) * 1 / sqrt(3)."""
    found = xd(tables, ("RPP", "POMP")).rows["RPP - POMP"]["tiny_print", "accuracy"].sample
    assert found.by_seed == pytest.approx({1: 1.0, 2: 3.0, 3: 2.0})
    assert found.mean == pytest.approx(2.0) and found.half_width == pytest.approx(2.484, abs=1e-3)


def test_zero_shot_is_the_same_for_every_seed(tables: list[Table]) -> None:
    row = xd(tables, ("RPP", "ZeroshotCLIP")).rows["RPP - ZeroshotCLIP"]
    assert row["tiny_shapes", "accuracy"].sample.by_seed == pytest.approx({1: 11.0, 2: 15.0, 3: 13.0})
    assert row["average", "accuracy"].sample.mean == pytest.approx(73 - 65)


def test_a_name_finds_the_plain_setting_or_the_one_that_has_its_parts(tables: list[Table]) -> None:
    (table,) = [table for table in tables if table.protocol == "xd"]
    assert find_row(table, "RPP") is table.rows["RPP s"]
    assert find_row(table, "RPP qkv_shared") is table.rows["RPP s-qkv_shared"]
    assert find_row(table, "CLIP") is find_row(table, "ZeroshotCLIP") is table.rows["CLIP"]
    assert find_row(table, "RPP lambda_0.0") is find_row(table, "CoOp") is None


def test_seeds_that_only_one_has_do_not_count(tmp_path: Path) -> None:
    for seed, value in FIRST.items():
        make_pair(tmp_path, value, 50.0, seed)
    make_pair(tmp_path, 70.0, 50.0, 2, trainer="CoOp", setting="vit_b16")
    (table,) = build(read_runs([tmp_path]))
    row = difference_table(table, [("MaPLe", "CoOp")]).rows["MaPLe - CoOp"]
    assert row["dtd", "base"].sample.by_seed == {2: 5.0} and row["dtd", "base"].sample.half_width is None


def test_a_sentence_says_what_the_interval_allows(tables: list[Table]) -> None:
    told = sentences(xd(tables, ("RPP", "POMP"), ("RPP", "ZeroshotCLIP"), ("ZeroshotCLIP", "RPP")))
    assert "RPP - POMP, tiny_source (source): +2.0 ± 2.5 points in 3 seeds: no certain difference" in told
    assert "RPP - ZeroshotCLIP, mean of the targets: +8.0 ± 5.0 points in 3 seeds: better" in told
    assert not any(line.startswith("ZeroshotCLIP - RPP") and "in 3 seeds" in line for line in told)


def test_a_sentence_for_each_number_of_shots(tmp_path: Path) -> None:
    for method, value in (("RPP", 60.0), ("CoOp", 50.0)):
        for dataset, stem in (("DescribableTextures", "dtd"), ("EuroSAT", "eurosat")):
            folder = tmp_path / f"{stem}/{method}/x_4shots/seed1"
            make_run(folder, value, trainer=method, dataset=dataset, num_shots=4)
    (table,) = build(read_runs([tmp_path]))
    told = "RPP - CoOp, mean of 4 shots: +10.0 points in one seed, which tells nothing of others"
    assert sentences(difference_table(table, [("RPP", "CoOp")])) == [told]


def test_from_the_command_line(tables: list[Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tmp_path), "--table", "xd", "--compare", "RPP", "POMP"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "Differences of the same seeds: Cross-dataset transfer from tiny_source" in text
    assert "RPP - POMP" in text and "+2.00 ±2.48" in text and "* RPP - POMP, mean of the targets" in text
    assert main([*argv, "--compare", "RPP", "CoOp"]) == 2
    error = capsys.readouterr().err
    assert 'no table has "RPP" and "CoOp"' in error and "RPP s-qkv_shared" in error
