"""What ``python -m tools.results`` reads of runs on disk: the record counts, not the folder's name."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dassl.config import flatten_cfg
from tests.tools.runs_on_disk import MAPLE, make_pair, make_run, records, table_of
from tools.command import parse_args, setup_cfg
from tools.results import published
from tools.results.__main__ import main
from tools.results.runs import read_runs
from tools.results.tables import build


def test_a_moved_and_renamed_tree_gives_the_same_tables(tmp_path: Path, capsys: pytest.CaptureFixture):
    """What is shown is on record: neither folders nor the paths in them count."""
    for seed in (1, 2):
        make_pair(tmp_path / "old", 80.0 + seed, 70.0, seed, num_shots=4)
        make_pair(tmp_path / "old", 81.0, 71.0 + seed, seed, setting="other", num_shots=4)
        facts = {"trainer": "CoOp", "seed": seed}
        source = make_run(tmp_path / f"old/imagenet/CoOp/xd_16shots/{seed}", 70.0, dataset="ImageNet", **facts)
        facts |= {"eval_only": True, "num_shots": -1, "model_dir": str(source)}
        for number, name in enumerate(("EuroSAT", "DescribableTextures", "ImageNetV2")):
            make_run(tmp_path / f"old/evaluation/{name}/{seed}", 40.0 + number * seed, dataset=name, **facts)
    tables = []
    for root in (tmp_path / "old", tmp_path / "new"):
        assert main([str(root)]) == 0
        tables.append(capsys.readouterr())
        if root.name == "old":
            for number, file in enumerate(sorted(root.rglob("metrics.json"))):
                shutil.move(file.parent, tmp_path / f"new/{number:02d}/dtd/RPP/x_1shots/seed9")
            shutil.rmtree(root)
    assert tables[0] == tables[1] and "xd" not in tables[0].err
    assert tables[0].out.count("4 shots") == 1 and "MaPLe other" in tables[0].out and "eurosat" in tables[0].out


def test_validation_results_stand_apart_and_beside_no_published_number(tmp_path: Path):
    part = {"accuracy": 80.0, "error_rate": 20.0, "macro_f1": 79.0, "total": 100, "per_class": []}
    make_run(
        tmp_path / "seed1", 0.0, results={"test": part, "val": {**part, "accuracy": 60.0}}, subsample_classes="base"
    )
    make_run(tmp_path / "new/seed1", 0.0, results={"test": part}, subsample_classes="new")
    rows = published.select("base2new", "ViT-B/16", 16)
    for split, accuracies in (("test", [80.0, 80.0]), ("val", [60.0])):
        runs = read_runs([tmp_path], split)
        assert [run.accuracy for run in runs] == accuracies and {run.split for run in runs} == {split}
        ours = [replace(run, setting="vit_b16_c2_ep5_batch4_2ctx") for run in runs if run.classes == "base"]
        assert (published.find(rows, ours, "dtd", "base") is None) == (split == "val")


def test_runs_of_the_familys_own_code_are_told_by_their_folders(tmp_path: Path):
    """Which have none of our records: settings by the run's folder, source and shots by the checkpoint's."""
    source = "imagenet/MaPLe/xd_16shots/nctx2/seed1"
    facts = {"eval_only": True, "model_dir": f"/elsewhere/{source}", "num_shots": -1, "dataset": "EuroSAT", "run": {}}
    make_run(tmp_path / "output/evaluation/MaPLe/xd_16shots/nctx2/eurosat/seed1", 40.0, **facts)
    make_run(tmp_path / f"output/{source}", 70.0, dataset="ImageNet", run={})
    away, home = read_runs([tmp_path])
    assert (away.source, away.shots, away.setting) == ("imagenet", 16, "xd/nctx2") == (home.dataset, 16, home.setting)


@pytest.mark.parametrize(
    ("setting", "changes", "expected"),
    [("x", {}, 80.36), ("x_unified", {}, 80.36), ("x", {"UNIFIED": True}, None), ("x", {"PROMPT_DEPTH": 1}, None)],
)
def test_published_numbers_are_those_of_the_options(
    setting: str, changes: dict, expected: float | None, tmp_path: Path, capsys: pytest.CaptureFixture
):
    config = {"TRAINER": {"MAPLE": {**MAPLE["TRAINER"]["MAPLE"], **changes}}}
    make_pair(tmp_path, 80.0, 70.0, setting=setting, config=config)
    base = next(one for one in records(capsys, tmp_path) if one["metric"] == "base")
    assert base["published"] == expected


def test_options_of_published_rows_exist():
    """A key that no config has would quietly fit no run."""
    for row in {(row.method, row.options): row for row in published.load() if row.options}.values():
        known = flatten_cfg(setup_cfg(parse_args(["--trainer", row.method])))
        assert published.options_of(row).keys() <= known.keys()


def test_newer_of_two_equal_seeds_counts(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "x/seed1", 80.0, finished="2024-02-01T00:00:00+00:00")
    make_run(tmp_path / "seed1", 70.0, finished="2024-01-01T00:00:00+00:00")
    make_run(tmp_path / "x/dtd/seed1", 90.0, finished="2024-03-01T00:00:00+00:00")
    rows = table_of(tmp_path, "fewshot").rows
    assert rows["MaPLe x"]["dtd", "16"].sample.by_seed == {1: 90.0}
    assert "seed 1 twice" in capsys.readouterr().err


def test_seeds_of_different_recipes_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    for seed, rate in ((1, 0.1), (2, 0.2)):
        make_run(tmp_path / f"a/seed{seed}", 80.0, {"OPTIM": {"LR": rate}, "SEED": seed})
    build(read_runs([tmp_path]))
    assert "OPTIM.LR: 0.1 and 0.2" in capsys.readouterr().err
