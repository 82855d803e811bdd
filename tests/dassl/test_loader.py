"""Images that travel as bytes are the very floats of the transform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from dassl.config import get_cfg_default
from dassl.data import DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.loader import BytesLoader
from dassl.data.transforms import build_transform

CROPS = ("random_resized_crop", "random_flip", "normalize")


@pytest.fixture
def items(tmp_path: Path) -> list[Datum]:
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return [Datum(str(tmp_path / f"{number}.png"), label=number) for number in range(6)]


def batch_of(
    items: list[Datum], names: tuple[str, ...], *opts: object, several: bool = False
) -> tuple[dict, dict, type]:
    """One batch of all items by the loader, by the data set's own floats, and the kind of what travels."""
    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.TRANSFORMS", names, "INPUT.SIZE", (16, 16), "DATALOADER.NUM_WORKERS", 0])
    transform = build_transform(cfg)
    tfm = [transform, build_transform(cfg)] if several else transform
    loader = build_data_loader(cfg, "SequentialSampler", items, 6, tfm=tfm, is_train=True)
    loader.dataset.set_seed(3)
    (batch,) = loader
    sent = loader.dataset.__getitems__([0])[0]
    kind = next(value.dtype for name, value in sent.items() if name in ("img", "img_bytes") and hasattr(value, "dtype"))
    return batch, default_collate([loader.dataset[i] for i in range(6)]), kind


@pytest.mark.parametrize("names", [CROPS, ("random_flip",), ("randaugment2", *CROPS)], ids=" ".join)
def test_bytes_become_the_floats_of_the_transform(items: list[Datum], names: tuple[str, ...]) -> None:
    batch, expected, kind = batch_of(items, names)
    assert kind == torch.uint8 and batch["img"].dtype == torch.float32
    assert torch.equal(batch["img"], expected["img"]) and batch.keys() == expected.keys()


def test_several_transforms_of_an_image(items: list[Datum]) -> None:
    batch, expected, kind = batch_of(items, CROPS, several=True)
    assert kind == torch.uint8 and not torch.equal(batch["img"], batch["img2"])
    assert all(torch.equal(batch[name], expected[name]) for name in ("img", "img2"))


def test_views_of_an_image(items: list[Datum]) -> None:
    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.TRANSFORMS", CROPS, "DATALOADER.K_TRANSFORMS", 2, "DATALOADER.NUM_WORKERS", 0])
    loader = build_data_loader(cfg, "SequentialSampler", items, 6, tfm=build_transform(cfg), is_train=True)
    loader.dataset.set_seed(3)
    (batch,) = loader
    for view, expected in zip(batch["img"], default_collate([loader.dataset[i]["img"] for i in range(6)]), strict=True):
        assert torch.equal(view, expected)


@pytest.mark.parametrize("last", ["cutout", "gaussian_noise", "instance_norm"])
def test_what_is_done_to_floats_stays_with_the_workers(items: list[Datum], last: str) -> None:
    batch, expected, kind = batch_of(items, ("normalize", last))
    assert kind == torch.float32 and torch.equal(batch["img"], expected["img"])


def test_only_loaders_of_the_engine_take_bytes(items: list[Datum]) -> None:
    """Neither a loader of a trainer's own around a data set, nor a data set that makes its own items, knows of them."""

    class Own(DatasetWrapper):
        def __getitem__(self, idx: int) -> dict[str, object]:
            return {**super().__getitem__(idx), "label": 100 + idx}

    cfg = get_cfg_default()
    cfg.merge_from_list(["INPUT.TRANSFORMS", ("normalize",), "DATALOADER.NUM_WORKERS", 0])
    transform = build_transform(cfg)
    (plain,) = DataLoader(DatasetWrapper(cfg, items, transform), 6)
    settings = {"tfm": transform, "is_train": False}
    (own,) = build_data_loader(cfg, "SequentialSampler", items, 6, dataset_wrapper=Own, **settings)
    assert plain["img"].dtype == torch.float32
    assert torch.equal(own["img"], plain["img"]) and own["label"].tolist() == list(range(100, 106))
    assert isinstance(build_data_loader(cfg, "SequentialSampler", items, 6, **settings), BytesLoader)
