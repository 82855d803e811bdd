"""``DATASET.ALL_AS_UNLABELED``: the images of all training lists, without labels."""

from pathlib import Path

import pytest

from tests.datasets.layouts import make
from tests.datasets.reading import read, rows


@pytest.mark.parametrize("name", ["DescribableTextures", "ImageNet"])
def test_all_training_images_of_all_classes_without_labels(name: str, tmp_path: Path) -> None:
    make(name, tmp_path)
    everything = read(name, tmp_path)
    assert everything.train_u is None
    for settings in ({}, {"NUM_SHOTS": 1}, {"NUM_SHOTS": 1, "SUBSAMPLE_CLASSES": "new"}):
        without, dataset = read(name, tmp_path, **settings), read(name, tmp_path, **settings, ALL_AS_UNLABELED=True)
        hidden = rows(dataset, "train_u")
        assert [path for path, *_ in hidden] == [path for path, *_ in rows(everything, "train_x")]
        assert {label for _, label, _ in hidden} == {-1}
        assert dataset.all_classnames == everything.classnames and dataset.classnames == without.classnames
        assert all(rows(dataset, part) == rows(without, part) for part in ("train_x", "val", "test"))


def test_of_embedded_data() -> None:
    settings = {"NUM_SHOTS": 2, "SUBSAMPLE_CLASSES": "base", "ALL_AS_UNLABELED": True}
    dataset, everything = read("TinyShapes", **settings), read("TinyShapes")
    assert len(dataset.train_u) == len(everything.train_x) > len(dataset.train_x)
    assert dataset.all_classnames == everything.classnames
