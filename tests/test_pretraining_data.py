"""Pretraining on ImageNet-21K's miniature: from shards as from folders, to the last bit."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import train
from dassl.utils import read_json
from dassl.utils.logger import Logger
from tests.datasets.layouts import make, picture
from tests.trainers.world import METHODS, save_clip
from tools.data.__main__ import main as data


@pytest.fixture
def settings(tmp_path: Path) -> str:
    """RPP on the small CLIP: random crops, two views, worker processes, val of training images."""
    content = {
        "MODEL": {"BACKBONE": {"PATH": save_clip(tmp_path)}},
        "INPUT": {"SIZE": "(32, 32)", "TRANSFORMS": ["random_resized_crop", "random_flip", "normalize"]},
        "DATASET": {"HELD_OUT": 1},
        "DATALOADER": {"NUM_WORKERS": 2, "K_TRANSFORMS": 2, "TRAIN_X": {"BATCH_SIZE": 4}},
        "OPTIM": {"NAME": "sgd", "LR": 0.02, "LR_SCHEDULER": "cosine", "MAX_EPOCH": 2},
        "TEST": {"FINAL_MODEL": "best_val"},
        "TRAINER": {"RPP": {"PREC": "fp32", **METHODS["RPP"]}},
        "USE_CUDA": False,
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("shots", [-1, 3])
def test_the_result_from_shards_is_that_from_folders(
    shots: int, settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "collect_env_info", lambda: "a machine")  # it takes seconds
    make("ImageNet21K", tmp_path)
    folder = tmp_path / "imagenet21k_resized"
    for path in folder.glob("*/*/*"):
        path.write_bytes(picture(path.name))  # no two alike: an order of their own would show

    def run(name: str) -> tuple[dict[str, torch.Tensor], dict]:
        console = sys.stdout
        words = ["--trainer", "RPP", "--config-file", settings, "--root", str(tmp_path), "--seed", "1"]
        words += ["--dataset-config-file", "configs/datasets/imagenet_21k.yaml", "--output-dir", str(tmp_path / name)]
        try:
            assert train.main([*words, "DATASET.NUM_SHOTS", str(shots)]) == 0
        finally:
            if isinstance(sys.stdout, Logger):
                sys.stdout.close()
            sys.stdout = console
        (model,) = (tmp_path / name).glob("*/model.pth.tar-2")
        return torch.load(model, weights_only=True)["state_dict"], read_json(str(tmp_path / name / "metrics.json"))

    prompts, record = run("from folders")
    for part in ("train", "val"):
        words = [str(folder / f"imagenet21k_{part}"), "--into", str(folder / "shards"), "--per-shard", "4"]
        assert data(["shard", *words]) == 0
        shutil.rmtree(folder / f"imagenet21k_{part}")
    from_shards, its_record = run("from shards")
    assert prompts.keys() == from_shards.keys() and prompts
    for name, tensor in prompts.items():
        assert torch.equal(tensor, from_shards[name]), name
    assert its_record["results"] == record["results"]
    counts = [[r[f"num_{part}"] for part in ("train", "val", "test")] for r in (record, its_record)]
    assert counts[0] == counts[1] and counts[0][1] == 3 and counts[0][2] == 9
    losses = [[epoch["loss"] for epoch in r["history"]] for r in (record, its_record)]
    assert losses[0] == losses[1] and len(losses[0]) == 2
