"""The store of image features: each image is encoded once, and what does not belong is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainers import PromptTrainer
from trainers.store import FeatureStore, image_key

from .world import Make, equal, state

FIXED = ("INPUT.TRANSFORMS", ("normalize",), "OPTIM.MAX_EPOCH", 1, "TEST.NO_TEST", True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "features"


def count_images(trainer: PromptTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images with every call of the image encoder."""
    seen, encode = [], trainer.model.clip.visual.forward
    monkeypatch.setattr(trainer.model.clip.visual, "forward", lambda image: seen.append(len(image)) or encode(image))
    return seen


def test_each_image_is_encoded_once_for_all_runs(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few-shot lists of two seeds overlap; the second run encodes what the first has not, the third nothing."""
    encoded, lists = [], []
    for seed in (1, 2, 1):
        trainer = make(
            "CoOp", None, *FIXED, "SEED", seed, "DATASET.NUM_SHOTS", 2, "DATALOADER.FEATURE_STORE", str(root)
        )
        plain = make("CoOp", None, *FIXED, "SEED", seed, "DATASET.NUM_SHOTS", 2)
        seen = count_images(trainer, monkeypatch)
        features, label = trainer.image_sets.features("train")
        encoded.append(sum(seen))
        expected, labels = plain.image_sets.features("train")
        assert torch.allclose(features, expected, rtol=0, atol=1e-5) and torch.equal(label, labels)
        lists.append({item.impath for item in trainer.dm.dataset.train_x})
    assert encoded == [12, len(lists[1] - lists[0]), 0] and 0 < encoded[1] < 12


def test_views_are_apart(make: Make, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentations, input settings, precisions and weights: none is served with features of another."""
    store = ("DATALOADER.FEATURE_STORE", str(root), "DATALOADER.NUM_WORKERS", 0)
    cases = [
        (make("CoOp", None, *store), 2, 48),
        (make("CoOp", None, *store), 2, 0),
        (make("CoOp", None, *store, "SEED", 2), 2, 48),
        (make("CoOp", None, *store), 1, 24),
        (make("CoOp", None, *store, "INPUT.RRCROP_SCALE", (0.5, 1.0), "INPUT.TRANSFORMS", ("normalize",)), 1, 0),
        (make("CoOp", None, *store, "INPUT.INTERPOLATION", "nearest"), 1, 24),
        (make("CoOp", {"PREC": "bf16"}, *store), 1, 24),
    ]
    other = make("CoOp", None, *store)
    other.model.clip.visual.proj.data.mul_(1.5)
    for trainer, passes, expected in [*cases, (other, 1, 24)]:
        seen = count_images(trainer, monkeypatch)
        trainer.image_sets.features("train", passes)
        assert sum(seen) == expected


def test_cached_features_of_training_come_from_it(
    make: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    for run, expected in (("one", 24), ("two", 0)):
        options = ("DATALOADER.CACHE_FEATURES", True, "DATALOADER.FEATURE_STORE", str(root))
        trainer = make("CoOp", None, *FIXED, *options, "OUTPUT_DIR", str(tmp_path / run))
        seen = count_images(trainer, monkeypatch)
        trainer.train()
        assert sum(seen) == expected
        learned.append(state(trainer))
    assert equal(*learned)


def test_test_images_are_encoded_once_for_all_methods(
    make: Make, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text-only method, one whose texts depend on the image, and zero-shot CLIP; MaPLe changes the image encoder."""
    for method, expected in (("CoOp", 12), ("CoCoOp", 0), ("ZeroshotCLIP", 0), ("MaPLe", 12)):
        plain = make(method, None, "OUTPUT_DIR", str(tmp_path / method))
        stored = make(method, None, "DATALOADER.FEATURE_STORE", str(root), "OUTPUT_DIR", str(tmp_path / f"{method}2"))
        seen, encode = [], stored.model.clip.visual.forward
        monkeypatch.setattr(
            stored.model.clip.visual, "forward", lambda x, *p, seen=seen, go=encode: seen.append(len(x)) or go(x, *p)
        )
        assert stored.test() == plain.test() == stored.test()
        assert stored.record.results == plain.record.results
        assert sum(seen) == expected * (2 if method == "MaPLe" else 1), method


def fill(root: Path, facts: dict[str, object]) -> Path:
    """A store of three images; returns its file."""
    store = FeatureStore(str(root), facts)
    store.features([1, 2, 3], lambda places: torch.eye(3)[places])
    (path,) = store.folder.iterdir()
    return path


def refuse(places: list[int]) -> torch.Tensor:
    raise AssertionError(f"{places} encoded")


def test_rows_come_in_the_order_of_the_keys(root: Path) -> None:
    fill(root, {"a": 1})
    store = FeatureStore(str(root), {"a": 1})
    assert store.features([3, 1], refuse).argmax(1).tolist() == [2, 0]
    found = store.features([4, 2], lambda places: torch.full((len(places), 3), 7.0))
    assert found.tolist() == [[7.0] * 3, [0.0, 1.0, 0.0]] and len([*store.folder.iterdir()]) == 2


@pytest.mark.parametrize("place", [5, -1, None], ids=["header", "number", "end"])
def test_a_damaged_file_is_named(place: int | None, root: Path) -> None:
    path = fill(root, {"a": 1})
    content = bytearray(path.read_bytes())
    if place is None:
        content = content[:-4]
    else:
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is damaged: delete it"):
        FeatureStore(str(root), {"a": 1}).features([1], refuse)
    path.unlink()
    assert FeatureStore(str(root), {"a": 1}).features([1], lambda places: torch.ones(1, 3)).tolist() == [[1.0] * 3]


def test_a_file_of_another_store_is_named(root: Path) -> None:
    path, other = fill(root, {"a": 1}), fill(root, {"a": 2})
    path.rename(other.with_name("moved.safetensors"))
    with pytest.raises(ValueError, match=r"moved.safetensors is of another encoder, data set or view"):
        FeatureStore(str(root), {"a": 2}).features([1], refuse)


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"one")
    before = image_key(str(path))
    assert image_key(str(path)) == before != image_key(str(path), 3)
    path.write_bytes(b"other")
    assert image_key(str(path)) != before
    assert image_key("nowhere/1") != image_key("nowhere/2")


def test_images_that_may_be_missing_are_in_no_store(make: Make, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make("CoOp", None, "DATALOADER.FEATURE_STORE", str(root), "DATALOADER.SKIP_BROKEN", True)
    trainer.image_sets.features("train")
    trainer.test()
    assert "FEATURE_STORE needs every image" in caplog.text and not root.exists()
