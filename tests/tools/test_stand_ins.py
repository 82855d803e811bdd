"""Stand-ins have the published sizes, real words, and photos that cost what a file costs."""

from __future__ import annotations

import pytest

from dassl.config import get_cfg_default, merge_from_list
from dassl.data.datasets import build_dataset
from tools.stand_ins import Counts, Stated, class_names, jpeg, use_data


def config(*words: str) -> object:
    cfg = get_cfg_default()
    merge_from_list(cfg, [*words])
    return cfg


IMAGENET21K = ("DATASET.NAME", "ImageNet21K", "DATASET.NUM_SHOTS")


def test_published_sizes() -> None:
    assert Stated().counts(config(*IMAGENET21K, "16")) == Counts(10_450, 167_200, 522_500)
    assert Stated().counts(config(*IMAGENET21K, "-1")) == Counts(10_450, 11_060_223, 522_500)
    held_out = ("DATASET.HELD_OUT", "5")
    assert Stated().counts(config(*IMAGENET21K, "16", *held_out)) == Counts(10_450, 167_200, 522_500, 52_250)
    assert Stated().counts(config(*IMAGENET21K, "-1", *held_out)) == Counts(10_450, 11_007_973, 522_500, 52_250)
    dtd = ("DATASET.NAME", "DescribableTextures", "DATASET.NUM_SHOTS")
    assert Stated().counts(config(*dtd, "16")) == Counts(47, 752, 1692, 188)
    assert Stated().counts(config(*dtd, "16", "DATASET.SUBSAMPLE_CLASSES", "base")) == Counts(24, 384, 864, 96)


def test_stated_sizes_come_first() -> None:
    assert Stated(classes=20, test_images=7).counts(config(*IMAGENET21K, "16")) == Counts(20, 320, 7)
    assert Stated(images=50).counts(config(*IMAGENET21K, "16")) == Counts(10_450, 50, 522_500)


@pytest.mark.parametrize(
    "stated, reason", [(Stated(), "--classes, --images, --test-images"), (Stated(3, 4, 0), "t-images 0")]
)
def test_sizes_that_are_none(stated: Stated, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        stated.counts(config("DATASET.NAME", "Folder"))


def test_a_data_set_is_made_of_them() -> None:
    cfg = config("DATASET.NAME", "ImageNet21K")
    told = use_data(cfg, Stated(3, 7, 5))
    data = build_dataset(cfg)
    assert "stands in for ImageNet21K: 3 classes, 7 images, 5 test images, photos of 224 x 224" in told
    assert (data.num_classes, len(data.train_x), len(data.test), data.val) == (3, 7, 5, data.test)
    assert [item.label for item in data.train_x] == [0, 1, 2, 0, 1, 2, 0]
    image = data.train_x[6].load()
    assert image.size == (224, 224) and image.mode == "RGB"
    assert data.classnames == ["benthos", "cell", "person"]


def test_class_names() -> None:
    names = class_names(10_452)
    assert len(names) == 10_452 and names[10_450] == f"{names[0]} 1"
    assert names[-3] == names[10_449] and "great white shark" in names


def test_photos_are_as_large_as_files_are() -> None:
    """ImageNet's are some 110 kB at 500 x 375."""
    assert 20_000 < len(jpeg(500, 375)) < 200_000
