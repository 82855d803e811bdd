"""Every yaml in ``configs/``: keys that exist, names that exist, recipes as published."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import yaml

import datasets  # noqa: F401 - registers the data sets
from clip.clip import OPENAI_MODELS
from configs import ROOT, methods
from dassl.config import CfgNode, flatten_cfg, get_cfg_default, load_yaml, merge_from_file
from dassl.data.datasets import DATASET_REGISTRY
from dassl.data.transforms.transforms import AVAI_CHOICES
from dassl.engine import TRAINER_REGISTRY
from tools import protocols
from tools.command import method_names
from trainers import extend_cfg

DATASETS = sorted((ROOT / "datasets").glob("*.yaml"))
METHODS = sorted((ROOT / "trainers").glob("[!_]*/*.yaml"))
BASES = sorted((ROOT / "trainers" / "_base").glob("*.yaml"))


def merged(path: Path) -> CfgNode:
    cfg = get_cfg_default()
    extend_cfg(cfg)
    merge_from_file(cfg, str(path))
    return cfg


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_data_set(path: Path) -> None:
    assert merged(path).DATASET.NAME in DATASET_REGISTRY.registered_names()


def test_every_data_set_has_a_yaml() -> None:
    named = {merged(path).DATASET.NAME for path in DATASETS}
    own = {
        name
        for name in DATASET_REGISTRY.registered_names()
        if DATASET_REGISTRY.get(name).__module__.startswith("datasets.")
    }
    assert own == named


@pytest.mark.parametrize("path", METHODS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_method(path: Path) -> None:
    """Trainer, backbone, size of its images, CLIP's normalisation, transforms; and the name tells the truth."""
    cfg, method = merged(path), path.parent.name
    assert method in TRAINER_REGISTRY.registered_names()
    TRAINER_REGISTRY.get(method).check_cfg(object.__new__(TRAINER_REGISTRY.get(method)), cfg)
    backbone = cfg.MODEL.BACKBONE.NAME
    is_tiny = path.stem.startswith("tiny")
    assert backbone == "tiny" if is_tiny else backbone in OPENAI_MODELS
    size = (32, 32) if is_tiny else (224, 224)
    assert size == cfg.INPUT.SIZE
    assert set(cfg.INPUT.TRANSFORMS) <= set(AVAI_CHOICES)
    if not is_tiny:
        prefix = {"ViT-B/16": "vit_b16", "ViT-B/32": "vit_b32", "ViT-L/14": "vit_l14", "RN50": "rn50", "RN101": "rn101"}
        assert path.stem.startswith(prefix[backbone])


@pytest.mark.parametrize("method", TRAINER_REGISTRY.registered_names())
def test_every_method_runs_on_the_embedded_world(method: str) -> None:
    if TRAINER_REGISTRY.get(method).__module__.startswith("trainers."):
        assert (ROOT / "trainers" / method / "tiny.yaml").is_file()


def test_the_methods_of_the_table_are_those_with_settings() -> None:
    """So that the scripts, which list folders, and the commands, which read the table, know the same."""
    assert {path.name for path in (ROOT / "trainers").glob("[!_]*")} == {*methods()}


def own_leaves(path: Path) -> dict[str, object]:
    """What a file itself says, by dotted key."""
    return flatten_cfg(yaml.safe_load(path.read_text()))


def base_of(path: Path) -> Path | None:
    base = own_leaves(path).get("_BASE_")
    return base and (path.parent / base).resolve()


@pytest.mark.parametrize("path", [*METHODS, *BASES], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_says_only_what_its_base_does_not(path: Path) -> None:
    own, base = own_leaves(path), base_of(path)
    inherited = flatten_cfg(load_yaml(base)) if base else {}
    assert [key for key in own.keys() & inherited.keys() if own[key] == inherited[key]] == []


COPIED = 5  # leaves, at most: the lengths and depths of one method's prompts, say


@pytest.mark.parametrize("method", sorted({path.parent.name for path in METHODS}))
def test_files_of_a_method_are_no_copies_of_each_other(method: str) -> None:
    """What two files (bases too) both say belongs to a base of both."""
    files = [path for path in METHODS if path.parent.name == method]
    for one, other in combinations([*files, *BASES], 2):
        shared = own_leaves(one).items() & own_leaves(other).items()
        assert one in BASES or len(shared) <= COPIED, f"{one} and {other} both say {shared}"


def test_every_base_is_used_and_is_no_method() -> None:
    assert {base_of(path) for path in [*METHODS, *BASES]} >= {*BASES}
    assert "_base" not in method_names()
    with pytest.raises(ValueError, match="unknown method '_base'"):
        protocols.check_method(protocols.Series("_base"))


COMMON = {"OPTIM.NAME": "sgd", "OPTIM.LR_SCHEDULER": "cosine", "OPTIM.WARMUP_EPOCH": 1, "OPTIM.WARMUP_TYPE": "constant"}


def value(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


MMRL = {"OPTIM.NAME": "adamw", "TRAINER.MMRL.PREC": "amp", "INPUT.RRCROP_SCALE": (0.5, 1.0), "TRAINER.MMRL.ALPHA": 0.7}
# (file, learning rate, epochs, training batch, other keys), as published.
RECIPES = [
    ("CoOp/rn50", 0.002, 200, 32, {}),
    ("CoOp/rn50_ep50", 0.002, 50, 32, {}),
    ("CoOp/vit_b16_ep100_ctxv1", 0.002, 100, 32, {"TRAINER.COOP.CTX_INIT": "a photo of a"}),
    ("CoOp/vit_l14", 0.002, 200, 32, {"TRAINER.COOP.CTX_INIT": ""}),
    ("CoCoOp/vit_b16_c4_ep10_batch1_ctxv1", 0.002, 10, 1, {"TRAINER.COCOOP.CTX_INIT": "a photo of a"}),
    ("CoCoOp/vit_b16_c16_ep10_batch1", 0.002, 10, 1, {"TRAINER.COCOOP.N_CTX": 16, "TRAINER.COCOOP.CTX_INIT": ""}),
    ("MaPLe/vit_b16_c2_ep5_batch4_2ctx", 0.0035, 5, 4, {"TRAINER.MAPLE.N_CTX": 2, "TRAINER.MAPLE.PROMPT_DEPTH": 9}),
    ("MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets", 0.0026, 2, 4, {"TRAINER.MAPLE.PROMPT_DEPTH": 3}),
    (
        "IVLP/vit_b16_c2_ep5_batch4_2+2ctx",
        0.0035,
        5,
        4,
        {"TRAINER.IVLP.N_CTX_TEXT": 2, "TRAINER.IVLP.PROMPT_DEPTH_TEXT": 12, "TRAINER.IVLP.PROMPT_DEPTH_VISION": 12},
    ),
    (
        "IVLP/vit_b16_c2_ep5_batch4_4ctx_language_only",
        0.0025,
        5,
        4,
        {"TRAINER.IVLP.N_CTX_TEXT": 4, "TRAINER.IVLP.PROMPT_DEPTH_TEXT": 12, "TRAINER.IVLP.PROMPT_DEPTH_VISION": 0},
    ),
    (
        "IVLP/vit_b16_c2_ep20_batch4_4+4ctx",
        0.0025,
        20,
        4,
        {"TRAINER.IVLP.N_CTX_VISION": 4, "TRAINER.IVLP.PROMPT_DEPTH_VISION": 9},
    ),
    (
        "VPT/vit_b16_c2_ep5_batch4_4",
        0.0025,
        5,
        4,
        {"TRAINER.VPT.N_CTX_VISION": 8, "TRAINER.VPT.PROMPT_DEPTH_VISION": 12},
    ),
    ("POMP/vit_b16_ep5_randaug2", 0.002, 5, 32, {"DATALOADER.K_TRANSFORMS": 4, "TRAIN.CHECKPOINT_FREQ": 1}),
    ("POMP/vit_b16_ep20", 0.002, 20, 32, {"DATALOADER.K_TRANSFORMS": 1, "TRAIN.CHECKPOINT_FREQ": 1}),
    ("KgCoOp/vit_b16_ep100", 0.002, 100, 128, {"TRAINER.KGCOOP.W": 8.0, "TRAINER.KGCOOP.CTX_INIT": "a photo of a"}),
    (
        "TCP/vit_b16_ep50",
        0.002,
        50,
        32,
        {"OPTIM.NAME": "adam", "OPTIM.ADAM_EPS": 1e-3, "TRAINER.TCP.LAYER": 9, "TRAINER.TCP.TEXT": "{}."},
    ),
    ("TCP/vit_b16_ep50_ucf", 0.002, 50, 32, {"OPTIM.NAME": "adam", "TRAINER.TCP.TEXT": "person doing {}."}),
    ("MMRL/vit_b16_reg7", 0.001, 10, 4, {**MMRL, "TRAINER.MMRL.REG_WEIGHT": 7.0, "TRAINER.MMRL.FIRST_LAYER": 6}),
    ("MMRL/vit_b16_few_shot_eurosat", 0.001, 50, 32, {**MMRL, "TRAINER.MMRL.REP_DIM": 2048}),
    ("MMRL/vit_b16_imagenet", 0.001, 5, 32, {**MMRL, "TRAINER.MMRL.REG_WEIGHT": 0.5}),
    ("MMRL/vit_b16_cross_datasets", 0.001, 1, 32, {**MMRL, "TRAINER.MMRL.REG_WEIGHT": 0.2, "OPTIM.WARMUP_EPOCH": 0}),
    ("RPP/vit_b16_ep5_randaug2", 0.002, 5, 32, {"DATALOADER.K_TRANSFORMS": 4, "TRAINER.RPP.UPDATE_CLASS_NUM": 1000}),
]


@pytest.mark.parametrize(("name", "rate", "epochs", "size", "others"), RECIPES, ids=[recipe[0] for recipe in RECIPES])
def test_recipe(name: str, rate: float, epochs: int, size: int, others: dict) -> None:
    cfg = merged(ROOT / "trainers" / f"{name}.yaml")
    rates = {
        "OPTIM.LR": rate,
        "OPTIM.MAX_EPOCH": epochs,
        "DATALOADER.TRAIN_X.BATCH_SIZE": size,
        "OPTIM.WARMUP_CONS_LR": 1e-5,
    }
    expected = {**COMMON, **rates, **others}
    assert {key: value(cfg, key) for key in expected} == expected
    assert "random_resized_crop" in cfg.INPUT.TRANSFORMS and cfg.INPUT.INTERPOLATION == "bicubic"
