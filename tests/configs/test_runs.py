"""What a run is: its folder, its arguments, its record."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from configs.runs import RunSpec, pairs, variant_of
from dassl.utils import write_json
from tools.command import parse_args, setup_cfg, spec_of
from tools.protocols import EMBEDDED, Series, jobs_of, usual_data

MAPLE = RunSpec("MaPLe", "dtd", settings="vit", shots=16, seed=3)
FOLDERS = {  # as the family's scripts lay them out
    "dtd/MaPLe/vit_16shots/seed3": MAPLE,
    "dtd/MaPLe/vit_all/seed3": replace(MAPLE, shots=-1),
    "dtd/MaPLe/vit-lr_0.1_16shots/seed3": replace(MAPLE, variant="lr_0.1"),
    "dtd/MaPLe/vit-lr_0.1-pretrained_16shots/seed3": replace(MAPLE, variant="lr_0.1", start="output/x"),
    "base2new/train_base/dtd/shots_16/MaPLe/vit/seed3": replace(MAPLE, classes="base"),
    "base2new/test_new/dtd/shots_16/MaPLe/vit/seed3": replace(MAPLE, classes="new", evaluation=True, source="dtd"),
    "evaluation/MaPLe/vit_16shots/eurosat/seed3": replace(MAPLE, dataset="eurosat", evaluation=True, source="dtd"),
    "ZeroshotCLIP/vit/dtd": RunSpec("ZeroshotCLIP", "dtd", settings="vit", evaluation=True),
    "base2new/test_base/dtd/shots_16/ZeroshotCLIP/vit/seed1": RunSpec(
        "ZeroshotCLIP", "dtd", "base", "vit", shots=16, evaluation=True
    ),
}


@pytest.mark.parametrize(("folder", "spec"), FOLDERS.items())
def test_folders(folder: str, spec: RunSpec) -> None:
    assert spec.folder("out") == f"out/{folder}"
    assert RunSpec.of_record(spec.record()) == spec


@pytest.mark.parametrize("protocol", ["base2new", "fewshot", "xd", "dg", "pretrain", "zeroshot"])
@pytest.mark.parametrize("opts", [(), ("OPTIM.LR", "0.1", "TRAIN.PRINT_FREQ", "1")])
def test_a_jobs_arguments_say_what_it_is(protocol: str, opts: tuple[str, ...], tmp_path: Path) -> None:
    """Also of an evaluation, by the record of what it loads; whatever options share its images out."""
    method = "ZeroshotCLIP" if protocol == "zeroshot" else "RPP"
    series = Series(method, seed=2, shots=4, opts=opts, init="" if protocol == "zeroshot" else "p", out=str(tmp_path))
    source, datasets = usual_data(protocol, EMBEDDED)
    jobs = jobs_of(protocol, series, datasets[:2], source)
    for job in jobs:
        args = parse_args([*job.argv, "OPTIM.GLOBAL_BATCH", "8"])
        assert spec_of(args, setup_cfg(args)) == job.spec
        assert job.output_dir == job.spec.folder(str(tmp_path))
        assert ("lr_0.1" in job.output_dir) == bool(opts) and "print" not in job.output_dir
        write_json({"run": job.spec.record()}, f"{job.output_dir}/metrics.json")
    assert len({job.output_dir for job in jobs}) == len(jobs) > 0


def test_without_a_name_the_variant_is_made_of_the_options(tmp_path: Path) -> None:
    words = ["--trainer", "CoOp", "--seed", "1"]
    args = parse_args([*words, "OPTIM.LR", "0.1", "DATASET.NUM_SHOTS", "4", "TEST.NO_TEST", "True"])
    cfg = setup_cfg(args)
    assert (
        spec_of(args, cfg).name == "tiny-lr_0.1"
        and cfg.OUTPUT_DIR == "output/tiny_shapes/CoOp/tiny-lr_0.1_4shots/seed1"
    )
    args = parse_args([*words, "--variant", "fast", "OPTIM.LR", "0.1"])
    assert spec_of(args, setup_cfg(args)).name == "tiny-fast"


def test_a_runs_own_config_keeps_its_name(tmp_path: Path) -> None:
    """``--config-file run/config.yaml`` is that run once more, not one of settings called config."""
    args = parse_args(["--trainer", "CoOp", "OPTIM.LR", "0.1"])
    cfg = setup_cfg(args)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    write_json({"run": spec_of(args, cfg).record()}, str(tmp_path / "metrics.json"))
    args = parse_args(["--config-file", str(tmp_path / "config.yaml"), "OPTIM.MAX_EPOCH", "1"])
    assert spec_of(args, setup_cfg(args)).name == "tiny-lr_0.1-max_epoch_1"


def test_variants_are_names_of_folders() -> None:
    assert variant_of({"TRAINER.RPP.QKV": "kv", "INPUT.SIZE": "(64, 64)", "SEED": 3}) == "qkv_kv-size_64_64"
    long = [variant_of({f"A.KEY{number}": value for number in range(60)}) for value in (1, 2)]
    assert len(set(long)) == 2 and max(map(len, long)) < 140
    with pytest.raises(ValueError, match="pairs KEY VALUE, but got OPTIM"):
        pairs(["OPTIM.LR"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": "old"}, "run.classes must be all, base or new, but is 'old'"),
        ({"shots": "16"}, "run.shots must be a whole number, but is '16'"),
        ({"seed": True}, "run.seed must be a whole number, but is True"),
        ({"evaluation": 0}, "run.evaluation must be true or false, but is 0"),
        ({"source": None}, "run.source must be a text, but is None"),
        ({"dataset": ""}, "run.dataset is missing"),
    ],
)
def test_a_record_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RunSpec.of_record({**MAPLE.record(), **change})
    assert RunSpec.of_record({**MAPLE.record(), "later": 1}) == MAPLE
