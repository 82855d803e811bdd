"""What ``python -m tools.results`` reads of runs on disk: the record counts, not the folder's name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import train
from dassl.config import flatten_cfg
from tests.tools.runs_on_disk import STEMS, make_pair, make_run, records, table_of
from tools.results import published
from tools.results.runs import read_runs
from tools.results.tables import build


def test_shots_of_the_record_count(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Of a training run and, through it, of its evaluations; one warning for the whole tree."""
    for seed in (1, 2):
        make_pair(tmp_path, 80.0, 70.0, seed, num_shots=4)
    table = table_of(tmp_path, "base2new")
    assert table.shots == 4 and table.title.endswith("4 shots")
    assert not [result for row in table.rows.values() for result in row.values() if result.published]  # of 16 shots
    (line,) = capsys.readouterr().err.splitlines()
    assert "shots_16" in line and "16 shots" in line and "record says 4" in line and "3 more" in line


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


def test_shots_of_transferred_prompts_are_those_of_the_recorded_training(tmp_path: Path):
    """An evaluation's own -1 is about its test data, and the folder's name counts only if nothing is recorded."""
    trained = make_run(tmp_path / "home/imagenet/MaPLe/xd_16shots/seed1", 70.0, num_shots=4, dataset="ImageNet")
    config = {"DATASET": {"NAME": "ImageNet", "NUM_SHOTS": 4}}
    (trained / "config.yaml").write_text(json.dumps(config))
    facts = {"num_shots": -1, "eval_only": True}
    for name, model_dir in (("EuroSAT", str(trained)), ("DescribableTextures", str(tmp_path / "gone"))):
        where = tmp_path / f"away/evaluation/MaPLe/xd_16shots/{STEMS[name]}/seed1"
        make_run(where, 40.0, dataset=name, model_dir=model_dir, **facts)
    for roots in (
        [tmp_path / "home", tmp_path / "away"],
        [tmp_path / "away"],
    ):  # found or not, it is on record
        found = {run.dataset: (run.shots, run.source) for run in read_runs(roots)}
        assert found["eurosat"] == (4, "imagenet") and found["dtd"] == (16, "")


@pytest.mark.parametrize(
    ("folder", "facts", "words"),
    [
        ("eurosat/MaPLe/x_16shots/seed1", {}, "data set eurosat, but the record says dtd"),
        ("dtd/CoOp/x_16shots/seed1", {}, "method CoOp, but the record says MaPLe"),
        ("dtd/MaPLe/x_16shots/seed3", {"seed": 1}, "seed 3, but the record says 1"),
        ("photos/mine/x_16shots/seed1", {}, ""),  # folders of a user's own, which say nothing
        ("dtd/ZeroshotCLIP/x_16shots/seed1", {"trainer": "ZeroshotCLIP", "eval_only": True}, ""),
    ],
)
def test_folders_that_contradict_the_record(
    folder: str, facts: dict, words: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    make_run(tmp_path / folder, 80.0, **facts)
    (run,) = read_runs([tmp_path])
    assert (run.dataset, run.seed) == ("dtd", 1)
    error = capsys.readouterr().err
    assert (words in error and error.count("\n") == 1) if words else not error


MAPLE = {"N_CTX": 2, "PROMPT_DEPTH": 9, "UNIFIED": False}


@pytest.mark.parametrize(
    ("setting", "changes", "expected"),
    [("x", {}, 80.36), ("x_unified", {}, 80.36), ("x", {"UNIFIED": True}, None), ("x", {"PROMPT_DEPTH": 1}, None)],
)
def test_published_numbers_are_those_of_the_options(
    setting: str, changes: dict, expected: float | None, tmp_path: Path, capsys: pytest.CaptureFixture
):
    config = {"TRAINER": {"MAPLE": {**MAPLE, **changes}}}
    make_pair(tmp_path, 80.0, 70.0, setting=setting, config=config)
    base = next(one for one in records(capsys, tmp_path) if one["metric"] == "base")
    assert base["published"] == expected


def test_options_of_published_rows_exist():
    """A key that no config has would quietly choose by the folder's name."""
    for row in {(row.method, row.options): row for row in published.load() if row.options}.values():
        known = flatten_cfg(train.setup_cfg(train.parse_args(["--trainer", row.method])))
        assert published.options_of(row).keys() <= known.keys()


def test_own_images_are_named_by_their_path(tmp_path: Path):
    make_run(tmp_path / "a", 80.0, dataset="Folder", config={"DATASET": {"PATH": "/home/me/photos"}})
    assert read_runs([tmp_path])[0].dataset == "photos"


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
