"""The family's folders and arguments, default settings, the state of jobs, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from configs import config_file, dataset_file, methods
from configs.runs import is_zero_shot
from tools import jobs, protocols
from tools.protocols import EMBEDDED, REAL, Series

from .small_world import accuracies, small_world  # noqa: F401 - a fixture

TINY = ("OPTIM.MAX_EPOCH", "2", "DATASET.NUM_SHOTS", "1")


def value_after(job: jobs.Job, word: str) -> str:
    return job.argv[job.argv.index(word) + 1]


# Layout ---------------------------------------------------------------------------------------------------------------


def test_base2new_has_the_familys_folders_and_arguments() -> None:
    base, new = protocols.base2new(Series("MaPLe", seed=2, root="/d"), "dtd")
    name = "dtd/shots_16/MaPLe/vit_b16_c2_ep5_batch4_2ctx/seed2"
    assert (base.output_dir, new.output_dir) == (
        f"output/base2new/train_base/{name}",
        f"output/base2new/test_new/{name}",
    )
    assert value_after(base, "DATASET.SUBSAMPLE_CLASSES") == "base" and "--eval-only" not in base.argv
    assert value_after(new, "DATASET.SUBSAMPLE_CLASSES") == "new" and "--eval-only" in new.argv
    assert value_after(new, "--model-dir") == base.output_dir and new.needs == (base.output_dir,)
    for job in (base, new):
        assert [value_after(job, word) for word in ("--root", "--seed", "--trainer", "DATASET.NUM_SHOTS")] == [
            *("/d", "2", "MaPLe", "16"),
        ]
        assert value_after(job, "--dataset-config-file").endswith("configs/datasets/dtd.yaml")


def test_xd_and_dg_share_the_training() -> None:
    series = Series("MaPLe", root="/d")
    xd = protocols.jobs_of("xd", series, REAL.targets, "imagenet")
    dg = protocols.jobs_of("dg", series, REAL.shifts, "imagenet")
    config = "vit_b16_c2_ep5_batch4_2ctx_cross_datasets_16shots"
    assert xd[0] == dg[0] and xd[0].output_dir == f"output/imagenet/MaPLe/{config}/seed1"
    assert [job.output_dir for job in dg[1:]] == [
        f"output/evaluation/MaPLe/{config}/{dataset}/seed1"
        for dataset in ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
    ]
    assert len(xd) == 11 and all(job.needs == (xd[0].output_dir,) for job in xd[1:])
    assert all("DATASET.NUM_SHOTS" not in job.argv for job in xd[1:])


def test_pretraining_tests_its_source_although_its_recipe_does_not() -> None:
    source, targets = protocols.usual_data("pretrain", REAL)
    first, *rest = protocols.jobs_of("pretrain", Series("RPP", 42, root="/d"), targets, source)
    assert first.output_dir == "output/imagenet_21k/RPP/vit_b16_ep5_randaug2_16shots/seed42" and len(rest) == 14
    assert value_after(first, "TEST.NO_TEST") == "False"


@pytest.mark.parametrize(
    ("dataset", "shots", "config"),
    [
        ("dtd", 1, "vit_b16_ep50"),
        ("dtd", 2, "vit_b16_ep100"),
        ("dtd", 4, "vit_b16_ep100"),
        ("dtd", 8, "vit_b16"),
        ("dtd", 16, "vit_b16"),
        ("imagenet", 16, "vit_b16_ep50"),
        ("tiny_shapes", 16, "tiny"),
    ],
)
def test_epochs_of_coop_depend_on_shots(dataset: str, shots: int, config: str) -> None:
    (job,) = protocols.fewshot(Series("CoOp", shots=shots), dataset)
    assert job.output_dir == f"output/{dataset}/CoOp/{config}_{shots}shots/seed1"


# Method, protocol and data set ("*": any other) to the settings of 1, 2, 4, 8 and 16 shots; without an entry: none.
SAME = {
    "ZeroshotCLIP": {"base2new": "vit_b16", "zeroshot": "vit_b16"},
    "ZeroshotCLIP2": {"base2new": "vit_b16", "zeroshot": "vit_b16"},
    "CoCoOp": dict.fromkeys(("base2new", "xd", "dg", "fewshot"), "vit_b16_c4_ep10_batch1_ctxv1"),
    "VPT": dict.fromkeys(("base2new", "xd", "dg", "fewshot"), "vit_b16_c2_ep5_batch4_4"),
    "IVLP": dict.fromkeys(("base2new", "xd", "dg", "fewshot"), "vit_b16_c2_ep5_batch4_2+2ctx"),
    "MaPLe": {
        "base2new": "vit_b16_c2_ep5_batch4_2ctx",
        "xd": "vit_b16_c2_ep5_batch4_2ctx_cross_datasets",
        "dg": "vit_b16_c2_ep5_batch4_2ctx_cross_datasets",
        "fewshot": "vit_b16_c2_ep5_batch4_2ctx_few_shot",
    },
    "POMP": {
        **dict.fromkeys(("base2new", "xd", "dg", "fewshot"), "vit_b16_ep5_all_classes"),
        "pretrain": "vit_b16_ep5_randaug2",
    },
    "RPP": {
        "base2new": "vit_b16_ep5_batch4_base2new",
        "xd": "vit_b16_ep2_batch4_cross_datasets",
        "dg": "vit_b16_ep2_batch4_cross_datasets",
        "fewshot": "vit_b16_ep50_batch4_few_shot",
        "pretrain": "vit_b16_ep5_randaug2",
    },
}
COOP = {
    ("base2new", "imagenet"): ["vit_b16_ep50_ctxv1"] * 5,
    ("base2new", "*"): ["vit_b16_ctxv1"] * 5,
    **{(protocol, "imagenet"): ["vit_b16_ep50_ctxv1"] * 5 for protocol in ("xd", "dg", "pretrain")},
    ("fewshot", "imagenet"): ["vit_b16_ep50"] * 5,
    ("fewshot", "*"): ["vit_b16_ep50", "vit_b16_ep100", "vit_b16_ep100", "vit_b16", "vit_b16"],
}
ANSWERS = {
    **{(m, p, "*"): [config] * 5 for m, configs in SAME.items() for p, config in configs.items()},
    **{("CoOp", *key): configs for key, configs in COOP.items()},
}
PRETRAINED = ("CoOp", "IVLP", "MaPLe", "POMP", "RPP", "VPT")  # those with settings for the embedded source


@pytest.mark.parametrize("protocol", protocols.PLACES)
@pytest.mark.parametrize("method", [*SAME, "CoOp"])
def test_usual_settings(method: str, protocol: str) -> None:
    """Of every protocol, data set and number of shots, by the name in the folder."""
    if protocol == "zeroshot" and not is_zero_shot(method):
        return
    for dataset in (REAL.source, REAL.pretraining, *REAL.targets, *REAL.shifts):
        usual = ANSWERS.get((method, protocol, "*"), [""] * 5)
        for shots, config in zip((1, 2, 4, 8, 16), ANSWERS.get((method, protocol, dataset), usual)):
            series = Series(method, shots=shots)
            if config:
                assert protocols.default_config(series, protocol, dataset) == config, (dataset, shots)
            else:
                with pytest.raises(ValueError, match=f"{method} has no default settings for {protocol}: give CFG, one"):
                    protocols.default_config(series, protocol, dataset)
    moved = protocol in protocols.TRANSFERS and method in PRETRAINED
    for dataset in ("tiny_source", *EMBEDDED.targets):
        assert protocols.default_config(Series(method), protocol, dataset) == ("tiny_source" if moved else "tiny")


def test_zero_shot_methods_are_evaluated_only() -> None:
    (job,) = protocols.fewshot(Series("ZeroshotCLIP", shots=4), "dtd")
    assert job.output_dir == "output/ZeroshotCLIP/vit_b16/dtd" and "--eval-only" in job.argv
    assert value_after(job, "--config-file").endswith("configs/trainers/CoOp/vit_b16.yaml")
    for job in protocols.base2new(Series("ZeroshotCLIP"), "dtd"):
        assert "--eval-only" in job.argv and "--model-dir" not in job.argv and not job.needs
    with pytest.raises(ValueError, match="must be one of ZeroshotCLIP, ZeroshotCLIP2: CoOp"):
        protocols.zeroshot(Series("CoOp"), "dtd")


def test_initial_prompts_count_in_training_only() -> None:
    base, new = protocols.base2new(Series("RPP", init="prompts", needs=("prompts",)), "dtd")
    assert value_after(base, "TRAINER.INIT_PROMPTS") == "prompts" and base.needs == ("prompts",)
    assert "TRAINER.INIT_PROMPTS" not in new.argv


def test_every_default_config_exists() -> None:
    for method, row in methods().items():
        for recipe in row.recipes.values():
            for config in [recipe] if isinstance(recipe, str) else recipe.values():
                assert Path(config_file(method, config)).is_file(), (method, config)
    for dataset in (*REAL.targets, *REAL.shifts, REAL.source, REAL.pretraining, *EMBEDDED.targets, *EMBEDDED.shifts):
        assert Path(dataset_file(dataset)).is_file()


# Command line ---------------------------------------------------------------------------------------------------------


def test_options_are_the_words_in_capitals() -> None:
    places, opts = protocols.read_words("base2new", ["RPP", "dtd", "2", "TRAINER.RPP.LAMBDA", "0.5"])
    assert places == {"METHOD": "RPP", "DATASET": "dtd", "SEED": "2"} and opts == ("TRAINER.RPP.LAMBDA", "0.5")
    assert protocols.read_words("fewshot", ["CoOp", "dtd", "4", "3", "rn50"])[0] == {
        **{"METHOD": "CoOp", "DATASET": "dtd", "SHOTS": "4", "SEED": "3", "CFG": "rn50"},
    }


def test_shots_name_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert protocols.main(["base2new", "CoOp", "--dry-run", "DATASET.NUM_SHOTS", "2"]) == 0
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 2 and all("tiny_shapes/shots_2/CoOp/tiny/seed1" in command for command in commands)
    assert all("DATASET.NUM_SHOTS 2" in command for command in commands)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["base2new", "RRP"], "did you mean RPP"),
        (["base2new", "RPP", "dtt"], "did you mean dtd"),
        (["base2new", "RPP", "dtd", "one"], "SEED must be a number, but got 'one'"),
        (["base2new", "CoOp", "dtd", "1", "vit_b61"], "did you mean vit_b16"),
        (["xd", "RPP", "1", "tiny", "more"], "xd takes METHOD SEED CFG"),
        (["pretrain", "CoCoOp", "--root", "/d"], "no default settings for pretrain: give CFG, one of tiny, vit_b16"),
        (["base2new", "RPP", "--root", "/d"], "base2new needs a DATASET"),
        (["base2new", "RPP", "OPTIM.LR"], "options come in pairs"),
    ],
)
def test_mistakes_end_in_one_line(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert protocols.main(words) == 2
    error = capsys.readouterr().err
    assert text in error and len(error.splitlines()) == 1


# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", ["[]", '{"status": "finished"}', '{"status": "finished", "finished": 5}'])
def test_a_record_that_is_none_ends_in_one_line(
    record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("zeroshot", "ZeroshotCLIP", "tiny_counts", "--out", str(tmp_path))
    (job,) = protocols.zeroshot(Series("ZeroshotCLIP", out=str(tmp_path)), "tiny_counts")
    Path(job.output_dir).mkdir(parents=True)
    Path(job.output_dir, "metrics.json").write_text(record)
    assert protocols.main(words) == 2
    error = capsys.readouterr().err
    assert "metrics.json" in error and "is no record of a run" in error and error.count("\n") == 1


@pytest.mark.usefixtures("small_world")
def test_a_series_is_carried_out_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["base2new", "CoOp", "tiny_digits", "1", *TINY, "--out", str(tmp_path)]
    series = Series("CoOp", shots=1, opts=("OPTIM.MAX_EPOCH", "2"), out=str(tmp_path))
    assert protocols.main(words) == 0
    first = capfd.readouterr().out
    assert "[2/2] finished" in first and "tiny_digits" in first.splitlines()[-2]
    before = accuracies(tmp_path)
    assert len(before) == 2 and all(0 < value <= 100 for value in before.values())

    assert protocols.main(words) == 0
    assert "2 jobs, 2 done already" in capfd.readouterr().out

    for job in protocols.base2new(series, "tiny_digits"):
        config = Path(job.output_dir) / "config.yaml"
        config.write_text(config.read_text().replace("LR: 0.02", "LR: 0.5"))
    assert protocols.main(words) == 2
    assert "OPTIM.LR: 0.5 there, 0.02 now" in capfd.readouterr().err
    assert accuracies(tmp_path) == before

    for job in protocols.base2new(series, "tiny_digits"):
        config = Path(job.output_dir) / "config.yaml"
        config.write_text(config.read_text().replace("LR: 0.5", "LR: 0.02"))
    check_states(*protocols.base2new(series, "tiny_digits"))


def check_states(base: jobs.Job, new: jobs.Job) -> None:
    """From two jobs that are done, by changing what they left."""

    def states() -> tuple[str, ...]:
        return tuple(jobs.states([base, new]).values())

    metrics = Path(base.output_dir) / "metrics.json"
    content = json.loads(metrics.read_text())
    assert states() == (jobs.DONE, jobs.DONE)
    metrics.write_text(json.dumps({**content, "finished": "2999-01-01T00:00:00+00:00"}))
    assert states() == (jobs.DONE, jobs.OUTDATED)
    metrics.write_text(json.dumps({**content, "status": "running"}))
    assert states() == (jobs.UNFINISHED, jobs.OUTDATED)
    metrics.unlink()
    jobs.leave_error(base, "ValueError: no")
    assert states() == (jobs.FAILED, jobs.OUTDATED)
    (metrics.parent / "error.txt").unlink()
    (metrics.parent / "config.yaml").unlink()
    assert states() == (jobs.MISSING, jobs.OUTDATED)
