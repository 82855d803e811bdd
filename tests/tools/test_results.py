"""``python -m tools.results``: arithmetic by hand, printed tables, formats that parse back, odd input."""

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest

from configs.worlds import REAL
from dassl.config import load_yaml
from tests.tools.runs_on_disk import STEMS, classes, make_pair, make_run, records, table_of
from tools.results import published
from tools.results.__main__ import main
from tools.results.runs import read_runs
from tools.results.sample import Sample, average, confidence_half_width, harmonic, harmonic_mean, ranks, verdict
from tools.results.tables import build

HALF_WIDTH_123 = 4.302653 / math.sqrt(3)  # of 1, 2, 3 around their mean: t(0.975, 2) * 1 / sqrt(3)


# Arithmetic


def test_interval_is_students_t():
    assert confidence_half_width([1.0, 2.0, 3.0]) == pytest.approx(HALF_WIDTH_123, rel=1e-6)
    assert confidence_half_width([70.0, 72.0]) == pytest.approx(12.7062047, rel=1e-6)  # t(0.975, 1) * sqrt(2) / sqrt(2)
    assert Sample.of({1: 5.0}).half_width is None


def test_harmonic_mean_by_hand():
    assert harmonic_mean(80.0, 60.0) == pytest.approx(9600 / 140)
    assert harmonic_mean(0.0, 0.0) == 0.0


def test_harmonic_is_that_of_the_means_not_the_mean_over_seeds():
    found = harmonic(Sample.of({1: 90.0, 2: 50.0}), Sample.of({1: 50.0, 2: 90.0, 3: 70.0}))
    assert found.mean == 70.0
    assert found.by_seed == pytest.approx({1: 9000 / 140, 2: 9000 / 140})


def test_average_keeps_the_seeds_that_all_have():
    found = average([Sample.of({1: 10.0, 2: 20.0, 3: 30.0}), Sample.of({2: 40.0, 3: 60.0})])
    assert found == Sample(35.0, {2: 30.0, 3: 45.0})


def test_verdict_and_ranks():
    ours = Sample.of({1: 1.0, 2: 2.0, 3: 3.0})
    edges = (2 - HALF_WIDTH_123 - 0.01, 2 - HALF_WIDTH_123 + 0.01, 2 + HALF_WIDTH_123 + 0.01)
    assert [verdict(ours, value) for value in edges] == ["above", "inside", "below"]
    assert verdict(Sample.of({1: 1.0}), 1.0) == "-"
    assert ranks([3.0, 5.0, 5.0, 1.0]) == [3, 1, 1, 4]


# The published numbers


def printed(protocol: str, method: str, dataset: str, metric: str = "accuracy", **where: str) -> float:
    (row,) = [
        row
        for row in published.load()
        if (row.protocol, row.method, row.dataset, row.metric, row.backbone)
        == (protocol, method, dataset, metric, "ViT-B/16")
        and all(getattr(row, name) == value for name, value in where.items())
    ]
    return row.value


METHODS = ["CLIP", "CoOp", "CoCoOp", "MaPLe", "PromptSRC", "KgCoOp", "ProGrad", "TCP", "MMRL", "PromptKD"]


@pytest.mark.parametrize("method", METHODS)
def test_printed_base2new_averages_are_the_means_of_the_data_sets(method: str):
    for column in ("base", "new"):
        mean = sum(printed("base2new", method, dataset, column) for dataset in REAL.datasets) / 11
        assert mean == pytest.approx(printed("base2new", method, "average", column), abs=0.021)
    halves = [printed("base2new", method, "average", column) for column in ("base", "new")]
    assert harmonic_mean(*halves) == pytest.approx(printed("base2new", method, "average", "H"), abs=0.02)


def test_printed_h_of_maple_is_that_of_its_halves():
    for dataset in REAL.datasets:
        halves = [printed("base2new", "MaPLe", dataset, column) for column in ("base", "new")]
        assert harmonic_mean(*halves) == pytest.approx(printed("base2new", "MaPLe", dataset, "H"), abs=0.02)


@pytest.mark.parametrize("method", ["CLIP", "CoOp", "CoCoOp", "MaPLe", "PromptSRC", "TCP", "MMRL"])
def test_printed_transfer_averages(method: str):
    for protocol, targets in (("xd", set(REAL.targets)), ("dg", set(REAL.shifts))):
        mean = sum(printed(protocol, method, dataset) for dataset in targets) / len(targets)
        assert mean == pytest.approx(printed(protocol, method, "average"), abs=0.02)


def test_every_printed_number_is_plausible_has_a_source_and_occurs_once():
    rows = published.load()
    assert all(0 < row.value < 100 and row.source for row in rows)
    keys = [
        (row.protocol, row.method, row.options, row.backbone, row.shots, row.source_dataset, row.dataset, row.metric)
        for row in rows
    ]
    assert len(keys) == len(set(keys))
    assert not [row for row in rows if row.method == "RPP"]  # its tables are not public


VARIANTS = [  # method, settings' file, H of the average
    ("IVLP", "vit_b16_c2_ep5_batch4_2+2ctx", 77.90),
    ("IVLP", "vit_b16_c2_ep20_batch4_4+4ctx", 77.51),
    ("IVLP", "vit_b16_c2_ep5_batch4_4ctx_language_only", 77.56),
    ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx", 78.55),
    ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx_unified", None),
    ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx_shallow", None),
    ("CoOp", "vit_b16_ctxv1", 71.66),
    ("CoOp", "vit_b16_ep10_batch1_ctxv1", None),
]


@pytest.mark.parametrize(("method", "setting", "expected"), VARIANTS)
def test_variants_have_their_own_printed_rows(method: str, setting: str, expected: float | None, tmp_path: Path):
    """By the options of a run, whatever its folder."""
    config = load_yaml(f"configs/trainers/{method}/{setting}.yaml")
    section = config.setdefault("TRAINER", {}).setdefault(method.upper(), {})
    section.setdefault("UNIFIED", False)
    make_run(tmp_path / "anything/seed1", 80.0, config, trainer=method)
    rows = published.select("base2new", "ViT-B/16", 16)
    found = published.find(rows, read_runs([tmp_path]), "average", "H")
    assert (found and found.value) == expected


# Tables


def test_base2new_by_hand(tmp_path: Path):
    for seed, shift in ((1, -1.0), (2, 0.0), (3, 1.0)):
        make_pair(tmp_path, 80 + shift, 60 + shift, seed)
        make_pair(tmp_path, 90 + shift, 90 + shift, seed, dataset="EuroSAT")
    row = table_of(tmp_path, "base2new").rows["MaPLe"]
    assert row["dtd", "base"].sample.mean == pytest.approx(80)
    assert row["dtd", "base"].sample.half_width == pytest.approx(HALF_WIDTH_123, rel=1e-6)
    assert row["dtd", "H"].sample.mean == pytest.approx(harmonic_mean(80, 60))
    assert row["average", "base"].sample.mean == pytest.approx(85)
    # H of the averages, as papers print it, and not the average of H
    assert row["average", "H"].sample.mean == pytest.approx(2 * 85 * 75 / 160)
    assert row["average", "H"].sample.mean != pytest.approx((harmonic_mean(80, 60) + 90) / 2)
    assert sorted(row["average", "H"].sample.by_seed) == [1, 2, 3]


def test_published_difference_and_verdict_beside_each_result(tmp_path: Path, capsys: pytest.CaptureFixture):
    for seed, value in ((1, 79.0), (2, 80.0), (3, 81.0)):
        make_pair(tmp_path, value, value, seed)
        make_pair(tmp_path, value, value, seed, trainer="RPP")
    make_pair(tmp_path, 50.0, 50.0, 1, trainer="CoCoOp")
    found = {(one["method"], one["metric"]): one for one in records(capsys, tmp_path)}
    base, new = found["MaPLe", "base"], found["MaPLe", "new"]
    assert base["published"] == printed("base2new", "MaPLe", "dtd", "base") == 80.36
    assert base["difference"] == pytest.approx(80 - 80.36)
    assert (base["verdict"], new["verdict"]) == ("inside", "above")
    assert base["published_source"]
    assert found["RPP", "base"]["published"] is None and found["RPP", "base"]["verdict"] == "-"
    assert found["CoCoOp", "base"]["difference"] is not None and found["CoCoOp", "base"]["verdict"] == "-"
    assert [found[name, "base"]["rank"] for name in ("MaPLe", "RPP", "CoCoOp")] == [1, 1, 3]


def test_average_is_compared_only_over_the_printed_data_sets(tmp_path: Path):
    rest = ("OxfordPets", "StanfordCars", "OxfordFlowers", "Food101", "FGVCAircraft", "SUN397", "UCF101")
    for names, expected in ((STEMS, None), (rest, 80.73)):
        for name in names:
            make_run(tmp_path / name / "seed1", 80.0, dataset=name, subsample_classes="base", trainer="KgCoOp")
        result = table_of(tmp_path, "base2new").rows["KgCoOp"]["average", "base"]
        assert (result.published and result.published.value) == expected


def test_zero_shot_joins_every_table(tmp_path: Path):
    make_pair(tmp_path, 80.0, 70.0)
    for half in ("base", "new", "all"):
        make_run(tmp_path / "zs" / half, 50.0, trainer="ZeroshotCLIP", subsample_classes=half, eval_only=True)
    make_run(tmp_path / "dtd/CoOp/vit_b16_1shots/seed1", 60.0, trainer="CoOp", num_shots=1)
    assert table_of(tmp_path, "base2new").rows["CLIP"]["dtd", "H"].published.value == 56.37
    few = table_of(tmp_path, "fewshot").rows
    assert (few["CLIP"]["dtd", "0"].sample.mean, few["CoOp"]["dtd", "1"].sample.mean) == (50.0, 60.0)


def test_zero_shot_with_other_words_is_a_row_of_its_own(tmp_path: Path):
    """Found by the record, whatever the folder is called; papers' numbers are of the data sets' own words."""
    facts = {"trainer": "ZeroshotCLIP", "eval_only": True}
    make_run(tmp_path / "dtd/CoOp/vit_b16_1shots/seed1", 60.0, trainer="CoOp", num_shots=1)
    for half, value in (("base", 53.24), ("new", 59.9)):
        make_run(tmp_path / f"own/{half}", value, subsample_classes=half, **facts)
        words = {"DATASET": {"TEMPLATE": "a photo of a {}."}}
        make_run(tmp_path / f"generic/{half}", value - 10, words, subsample_classes=half, **facts)
    rows = table_of(tmp_path, "base2new").rows
    assert {*rows} == {"CLIP", "CLIP a photo of a {}."}
    own, generic = rows["CLIP"]["dtd", "base"], rows["CLIP a photo of a {}."]["dtd", "base"]
    assert (own.value, generic.value) == (53.24, 43.24)
    assert own.published.value == pytest.approx(53.24) and generic.published is None


def test_zero_shot_alone_makes_a_table(tmp_path: Path):
    make_run(tmp_path / "zs", 50.0, trainer="ZeroshotCLIP", eval_only=True)
    make_transfer(tmp_path / "other", backbone="RN50")
    assert table_of(tmp_path, "fewshot").rows["CLIP"]["dtd", "0"].sample.mean == 50.0


SHALLOWER = {"TRAINER": {"MAPLE": {"N_CTX": 2, "PROMPT_DEPTH": 3, "UNIFIED": False}}}  # as published


def make_transfer(root: Path, shift: float = 0.0, seed: int = 1, backbone: str = "ViT-B/16") -> None:
    place = root / f"imagenet/MaPLe/xd_16shots/seed{seed}"
    folder = make_run(place, 70 + shift, SHALLOWER, dataset="ImageNet", backbone=backbone)
    for number, name in enumerate(("DescribableTextures", "EuroSAT", "ImageNetV2", "ImageNetA")):
        make_run(
            root / f"evaluation/MaPLe/xd_16shots/{name}/seed{seed}",
            40 + 10 * number + shift,
            SHALLOWER,
            dataset=name,
            backbone=backbone,
            num_shots=-1,
            eval_only=True,
            model_dir=str(folder),
        )


def test_transfer_tables(tmp_path: Path):
    make_transfer(tmp_path)
    make_transfer(tmp_path, 2.0, seed=2)
    xd, dg, means = (table_of(tmp_path, name) for name in ("xd", "dg", "pretrain"))
    assert (xd.source_dataset, xd.shots) == ("imagenet", 16)
    accuracies = {key[0]: result.sample.mean for key, result in xd.rows["MaPLe"].items()}
    assert accuracies == {"imagenet": 71.0, "dtd": 41.0, "eurosat": 51.0, "average": 46.0}
    assert xd.rows["MaPLe"]["imagenet", "accuracy"].published.value == 70.72
    assert {name for name, _ in dg.rows["MaPLe"]} == {"imagenet", "imagenetv2", "imagenet_a", "average"}
    assert [means.rows["MaPLe"][key].sample.mean for key in means.places()] == [71.0, 46.0, 66.0, 56.0]
    assert not [table for table in build(read_runs([tmp_path])) if table.protocol == "fewshot"]  # it is only a source


def test_embedded_means_are_over_the_sources_family(tmp_path: Path):
    """Handwriting and photos are shown beside the targets, in the order of the world, and count in no mean."""
    source = make_run(tmp_path / "tiny_source/RPP/tiny_source_8shots/seed1", 25.0, dataset="TinySource", trainer="RPP")
    for number, name in enumerate(("TinyDigits", "TinyShapes", "TinyPhotos", "TinyPrint", "TinySourceTint")):
        folder = tmp_path / f"evaluation/RPP/tiny_source_8shots/{name}/seed1"
        facts = {"dataset": name, "trainer": "RPP", "eval_only": True, "model_dir": str(source)}
        make_run(folder, 10.0 * (number + 1), **facts)
    xd, means = table_of(tmp_path, "xd"), table_of(tmp_path, "pretrain")
    shown = {dataset: xd.rows["RPP"][dataset, column].sample.mean for dataset, column in xd.places()}
    assert [*shown] == ["tiny_source", "tiny_shapes", "tiny_print", "tiny_digits", "tiny_photos", "average"]
    assert shown["average"] == (20 + 40) / 2
    assert [means.rows["RPP"][key].sample.mean for key in means.places()] == [25.0, 30.0]


def test_fewshot_columns_are_shots(tmp_path: Path, capsys: pytest.CaptureFixture):
    for shots, setting in ((1, "vit_b16_ep50"), (4, "vit_b16_ep100"), (16, "vit_b16")):
        folder = tmp_path / f"dtd/CoOp/{setting}_{shots}shots/nctx16_cscFalse_ctpend/seed1"
        make_run(folder, 50.0 + shots, trainer="CoOp", num_shots=shots)
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", lines[1].strip())[-3:] == ["1 shot", "4 shots", "16 shots"]
    assert lines[3].split() == ["dtd", "CoOp", "1", "seed", "51.00", "54.00", "66.00"]  # three settings, one row


def test_settings_of_the_same_data_get_rows_of_their_own(tmp_path: Path):
    make_pair(tmp_path, 80.0, 70.0, setting="depth3")
    make_pair(tmp_path, 82.0, 71.0, setting="depth9")
    assert sorted(table_of(tmp_path, "base2new").rows) == ["MaPLe depth3", "MaPLe depth9"]


def test_run_made_by_hand_shows_up(tmp_path: Path):
    for seed in (1, 2):
        facts = {"seed": seed, "settings": "mine"}
        trained = make_run(tmp_path / f"mine/try_seed{seed}", 80.0, subsample_classes="base", **facts)
        place = tmp_path / f"elsewhere/{seed}"
        make_run(place, 60.0, subsample_classes="new", eval_only=True, model_dir=str(trained), **facts)
    (row,) = table_of(tmp_path, "base2new").rows.values()
    assert row["dtd", "H"].sample.mean == pytest.approx(harmonic_mean(80, 60))
    assert len(row["dtd", "H"].sample.by_seed) == 2


# Formats


@pytest.fixture
def small(tmp_path: Path) -> Path:
    for seed in (1, 2):
        make_pair(tmp_path / "runs", 80.0 + seed, 70.0 + seed, seed, config={})
        make_pair(tmp_path / "runs", 82.0 + seed, 60.0 + seed, seed, trainer="RPP", setting="a_b|c&d", config={})
    return tmp_path / "runs"


def test_csv_and_json_hold_the_same_full_precision_records(small: Path, capsys: pytest.CaptureFixture):
    from_json = records(capsys, small)
    assert main([str(small), "--format", "csv"]) == 0
    from_csv = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(from_csv) == len(from_json) == 6
    for text, record in zip(from_csv, from_json):
        assert float(text["mean"]) == record["mean"] and float(text["ci95"]) == record["ci95"]
        assert text["runs"].split(";") == record["runs"] and text["seeds"] == "1;2"


def test_markdown_and_latex_parse_back(small: Path, capsys: pytest.CaptureFixture):
    make_pair(small, 75.0, 75.0, 1, trainer="RPP", setting="other")
    assert main([str(small), "--format", "markdown"]) == 0
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    assert {len(row) for row in rows} == {6}
    spread = 12.7062 * (harmonic_mean(82, 72) - harmonic_mean(81, 71)) / 2
    best = next(row for row in rows if row[1].strip() == "MaPLe" and row[2].strip() == "2 seeds")
    assert best[4].strip() == "71.50 ±6.35" and best[5].strip() == f"**{harmonic_mean(81.5, 71.5):.2f} ±{spread:.2f}**"
    assert any(row[1].strip() == r"RPP a_b\|c&d" for row in rows)

    assert main([str(small), "--format", "latex"]) == 0
    text = capsys.readouterr().out
    cells = [re.split(r"(?<!\\)&", line) for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(row) for row in cells} == {6}
    assert r"RPP a\_b|c\&d" in text and r"\textbf{" in text


def test_latex_is_a_table_with_rules_caption_and_label(small: Path, capsys: pytest.CaptureFixture):
    make_pair(small, 75.0, 75.0, 1, trainer="RPP", dataset="EuroSAT")
    assert main([str(small), "--format", "latex"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [
        r"\toprule",
        r"\midrule",
        r"\midrule",
        r"\midrule",
        r"\bottomrule",
    ]  # header, DTD, EuroSAT, average
    assert lines[0].startswith(r"\begin{table}") and lines[-1] == r"\end{table}"
    assert any(line.startswith(r"\caption{Base-to-new generalization, ViT-B/16, 16 shots.") for line in lines)
    assert r"\label{tab:base-to-new-generalization-vit-b-16-16-shots}" in lines
    assert {line.split(" & ")[0] for line in lines if line.endswith(r"\\")} == {"data set", "DTD", "EuroSAT", "Average"}


@pytest.mark.parametrize("name", ["table.docx", "figure.png"])
def test_out_with_an_unknown_ending_is_refused(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str):
    assert main([str(small), "--out", str(tmp_path / name)]) == 2
    assert "an ending out of .txt, .csv, .json, .md, .tex" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert main([str(small), "--out", str(tmp_path / name), "--format", "csv"]) == 0


def test_out_picks_the_format_by_its_ending(small: Path, tmp_path: Path):
    assert main([str(small), "--out", str(tmp_path / "t.json")]) == 0
    assert len(json.loads((tmp_path / "t.json").read_text())) == 6


def test_published_rows_of_methods_that_were_not_run(small: Path, capsys: pytest.CaptureFixture):
    assert main([str(small), "--published"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["dtd", "KgCoOp", "published", "77.55", "54.99", "64.35"] in lines
    assert not [line for line in lines if line[:1] == ["average"]]


def test_commands_name_config_and_prompts(small: Path, capsys: pytest.CaptureFixture):
    rows = records(capsys, small, "--commands", "--method", "MaPLe")
    new = next(row for row in rows if row["classes"] == "new" and row["seed"] == "2")
    trained = small / "base2new/train_base/dtd/shots_16/MaPLe/vit_b16_c2_ep5_batch4_2ctx/seed2"
    assert new["command"].endswith(f"--eval-only --model-dir {trained}")
    assert new["command"].startswith("python train.py --dataset-config-file configs/datasets/dtd.yaml --config-file ")
    assert Path(new["config"]).is_file() and len(rows) == 4


def test_per_class_differences(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "m/seed1", 50.0, per_class=classes(80.0, 40.0))
    make_run(tmp_path / "m/seed2", 50.0, per_class=classes(60.0, 50.0))
    make_run(tmp_path / "c/seed1", 50.0, trainer="CoCoOp", per_class=classes(60.0, 55.0))
    rows = records(capsys, tmp_path, "--per-class", "MaPLe", "CoCoOp")
    assert [(row["class"], row["first"], row["difference"]) for row in rows] == [
        ("c0", 70.0, 10.0),
        ("c1", 45.0, -10.0),
    ]
    assert main([str(tmp_path), "--per-class", "MaPLe", "CoOp"]) == 2


# The mean over seeds of one folder


def test_test_log_prints_the_familiar_lines(tmp_path: Path, capsys: pytest.CaptureFixture):
    for seed, value in ((1, 81.4), (2, 82.4)):
        make_run(tmp_path / f"seed{seed}", value)
    assert main([str(tmp_path), "--test-log"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Parsing files in {tmp_path}"
    assert lines[1] == f"file: {tmp_path}/seed1/metrics.json. accuracy: 81.40%. "
    assert lines[-2] == "* accuracy: 81.90% +- 0.50%"  # the population's deviation
    assert main([str(tmp_path), "--test-log", "--ci95", "--keyword", "macro_f1"]) == 0
    assert "* macro_f1: 80.90% +- 0.69%" in capsys.readouterr().out  # 1.96 * 0.5 / sqrt(2)
    assert main([str(tmp_path), "--test-log", "--keyword", "recall"]) == 2
    assert "there are accuracy, error_rate, macro_f1" in capsys.readouterr().err


def test_test_log_of_several_experiments(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "a/seed1", 80.0)
    make_run(tmp_path / "b/seed1", 90.0)
    assert main([str(tmp_path), "--test-log"]) == 0
    assert capsys.readouterr().out.endswith("Average performance\n* accuracy: 85.00%\n")


# Odd input


def test_broken_and_unfinished_runs_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "good/seed1", 80.0)
    (make_run(tmp_path / "cut/seed1", 1.0) / "metrics.json").write_text('{"trainer": "MaP')
    (make_run(tmp_path / "list/seed1", 1.0) / "metrics.json").write_text("[]")
    (make_run(tmp_path / "config/seed1", 1.0) / "config.yaml").write_text("a: [")
    make_run(tmp_path / "running/seed1", 1.0, results={"val": {"accuracy": 3.0}}, status="running")
    assert [run.folder.parent.name for run in read_runs([tmp_path])] == ["good"]
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(line.startswith("warning: ") for line in errors)
    assert all(any(f"{name}/seed1" in line for line in errors) for name in ("cut", "list", "config", "running"))


BROKEN = {  # what a record holds where something else belongs: the warning names the entry
    "NaN": ({"results": {"test": {"accuracy": math.nan}}}, "accuracy must be a number from 0 to 100, but is nan"),
    "text": ({"results": {"test": {"accuracy": "80"}}}, "accuracy must be a number from 0 to 100, but is '80'"),
    "range": ({"results": {"test": {"accuracy": 4120.0}}}, "accuracy must be a number from 0 to 100, but is 4120.0"),
    "null": ({"results": {"test": {"accuracy": None}}}, "accuracy must be a number from 0 to 100, but is None"),
    "truth": ({"results": {"test": {"accuracy": True}}}, "accuracy must be a number from 0 to 100, but is True"),
    "no accuracy": ({"results": {"test": {}}}, "results.test.accuracy is missing"),
    "result": ({"results": {"test": [80.0]}}, "results.test must be a mapping"),
    "results": ({"results": [80.0]}, "results must be a mapping"),
    "f1": ({"results": {"test": {"accuracy": 80.0, "macro_f1": "79"}}}, "macro_f1 must be a number from 0 to 100"),
    "class": (
        {"per_class": [{"label": 0, "classname": ["a"], "accuracy": 1.0}]},
        "classname must be a name",
    ),
    "class's label": (
        {"per_class": [{"label": {}, "classname": "a", "accuracy": 1.0}]},
        "label must be a whole number",
    ),
    "class's accuracy": ({"per_class": [{"label": 0, "classname": "a"}]}, "per_class[0].accuracy is missing"),
    "name": ({"trainer": ["MaPLe"]}, "trainer must be a name, but is ['MaPLe']"),
    "no name": ({"dataset": None}, "dataset must be a name, but is None"),
    "backbone": ({"backbone": {}}, "backbone must be a name"),
    "seed": ({"seed": 1.5}, "seed must be a whole number, but is 1.5"),
    "shots": ({"num_shots": "16"}, "num_shots must be a whole number from -1, but is '16'"),
    "half": ({"subsample_classes": "old"}, "subsample_classes must be all, base or new, but is 'old'"),
    "eval": ({"eval_only": "no"}, "eval_only must be true or false"),
    "date": ({"finished": 5}, "finished must be a text"),
    "prompts": ({"model_dir": "a\0b"}, "model_dir must be a path"),
    "history": ({"history": {"epoch": 1}}, "history must be a list"),
    "epoch": ({"history": [{"epoch": "1", "loss": 1.0}]}, "history[0].epoch must be a whole number"),
    "loss": ({"history": [{"epoch": 1, "loss": math.inf}]}, "history[0].loss must be a finite number, but is inf"),
    "parameters": ({"trainable_parameters": -1}, "trainable_parameters must be a whole number from 0, but is -1"),
    "seconds": ({"seconds": {"train": "1"}}, "seconds.train must be a finite number, but is '1'"),
    "own images": ({"config": {"DATASET": {"PATH": ["a"]}}, "run": {}}, "DATASET.PATH must be a path"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_run_with_a_value_that_cannot_be_is_left_out(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Which and why is said in one line; the table of the others is printed."""
    facts, message = BROKEN[kind]
    make_run(tmp_path / "bad/seed1", 80.0, **facts)
    make_run(tmp_path / "good/seed1", 80.0)
    assert main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and f"{tmp_path / 'bad/seed1/metrics.json'}" in err and message in err
    assert "80.00" in out


def test_runs_on_all_images_have_a_column(tmp_path: Path, capsys: pytest.CaptureFixture):
    make_run(tmp_path / "all/seed1", 82.0, num_shots=-1)
    make_run(tmp_path / "few/seed1", 80.0, num_shots=4)
    assert main([str(tmp_path)]) == 0
    lines = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1][-2:] == ["4 shots", "all images"] and lines[3][-2:] == ["80.00", "82.00"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no usable metrics.json below"),
        (["--dataset", "dtt"], 'no run has the dataset "dtt"; there are dtd'),
        (["--table", "xd"], "the runs make no xd table, but base2new"),
        (["--plot", "radar"], "--plot needs a file"),
        (["--plot", "radar", "--out", "a.png"], "at least three data sets"),
        (["--plot", "depth", "--out", "a.png"], 'no run has a number "depth"'),
        (["--plot", "epochs", "--out", "a.png"], "no run has a training history"),
        (["--plot", "per-class", "--out", "a.png"], "needs the two methods"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: list[str], message: str
):
    (tmp_path / "empty").mkdir()
    make_pair(tmp_path / "runs", 80.0, 70.0, config={})
    assert main([str(tmp_path / ("runs" if arguments else "empty")), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
