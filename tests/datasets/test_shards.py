"""ImageNet-21K from shards: the same images as from folders, and what is said of bad ones."""

import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import BrokenImageError
from datasets.tars import Member, members
from tests.datasets.layouts import make, picture
from tests.datasets.reading import read, rows
from tests.datasets.shard_files import Sample, sample, samples_of, to_shards, write_shard

NAMES = {"n00005787": "benthos", "n00015388": "animal", "n00021265": "food, nutrient"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make("ImageNet21K", tmp_path)
    return tmp_path


def key(path: str) -> str:
    """Key of an image from its path in a folder or its place in a shard."""
    return re.split("[/:]", path)[-1].partition(".")[0]


def keys(dataset: object, part: str) -> list[tuple]:
    return [(key(path), label, name) for path, label, name in rows(dataset, part)]


def read_tolerant(root: Path, **settings: object) -> object:
    """With ``DATALOADER.SKIP_BROKEN``."""
    cfg = get_cfg_default()
    cfg.SEED, cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATALOADER.SKIP_BROKEN = 1, "ImageNet21K", str(root), True
    return DATASET_REGISTRY.get("ImageNet21K")(cfg)


@pytest.mark.parametrize("parts", [("train",), ("train", "val")])
@pytest.mark.parametrize("settings", [{}, {"NUM_SHOTS": 2}, {"SUBSAMPLE_CLASSES": "new"}, {"HELD_OUT": 2}])
def test_shards_are_the_folders(root: Path, parts: tuple[str, ...], settings: dict) -> None:
    """The same images in the same order with the same labels: so all that is drawn from them is the same, too."""
    folders = read("ImageNet21K", root, **settings)
    expected = {part: keys(folders, part) for part in ("train_x", "val", "test")}
    pixels = [item.load().getpixel((5, 5)) for item in folders.train_x]
    to_shards(root, parts=parts)
    for _ in ("indexed", "from the index"):
        shards = read("ImageNet21K", root, **settings)
        assert {part: keys(shards, part) for part in ("train_x", "val", "test")} == expected
        assert shards.classnames == folders.classnames
        assert [item.load().getpixel((5, 5)) for item in shards.train_x] == pixels
    assert [item.impath for item in pickle.loads(pickle.dumps(shards.train_x))] == [x.impath for x in shards.train_x]


def test_a_picked_list_is_readable_and_used(root: Path) -> None:
    to_shards(root)
    first = rows(read("ImageNet21K", root, NUM_SHOTS=1), "train_x")
    kept = json.loads((root / "imagenet21k_resized/split_fewshot/shot_1-seed_1.json").read_text())
    assert kept["train"] == first and first[0][0].startswith("shards/imagenet_w21-train-000")


def test_webp_and_keys_without_an_id(root: Path) -> None:
    """The class is in the key or in the .json; .cls counts other classes and is not looked at."""
    folder = root / "imagenet21k_resized"
    samples = samples_of(folder / "imagenet21k_train")
    renamed = [
        (f"train/{i:06d}", {"webp" if suffix == "jpg" else suffix: content for suffix, content in files.items()})
        for i, (_, files) in enumerate(samples)
    ]
    shards = to_shards(root)
    for path in shards.glob("*.tar"):
        path.unlink()
    write_shard(shards / "imagenet12k-train-0000.tar", renamed, mtime=0)
    dataset = read("ImageNet21K", root)
    wnids = [name.partition("_")[0] for name, _ in samples]
    assert [label for _, label, _ in rows(dataset, "train_x")] == sorted(list(NAMES).index(wnid) for wnid in wnids)
    place = dataset.train_x[0].impath
    assert place.endswith(".webp") and dataset.train_x[0].load().size == (12, 8)


def test_other_classes_and_test_images_are_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Published shards hold 19,167 classes, and the images that the publishers of -P took for val."""
    expected = keys(read("ImageNet21K", root), "train_x")
    val = samples_of(root / "imagenet21k_resized/imagenet21k_val")
    shards = to_shards(root)
    write_shard(shards / "imagenet_w21-train-0003.tar", [("n09999999_1", sample("n09999999", picture("x"))), *val])
    dataset = read("ImageNet21K", root)
    assert keys(dataset, "train_x") == expected and dataset.num_classes == 3


def test_without_val_images_some_training_images_are_test_images(root: Path) -> None:
    """At most 50 of each class, at most half, and whatever the seed the same."""
    expected = keys(read("ImageNet21K", root), "train_x")
    to_shards(root, parts=("train", "val"))
    for path in (root / "imagenet21k_resized/shards").glob("*validation*"):
        path.unlink()
    first, second = (read("ImageNet21K", root, SEED=seed, HELD_OUT=1) for seed in (1, 2))
    assert keys(first, "test") == keys(second, "test")
    assert first.num_classes == 3 and keys(first, "val") != keys(first, "test")
    assert sorted(found for part in ("train_x", "val", "test") for found in keys(first, part)) == expected
    shots = read("ImageNet21K", root, NUM_SHOTS=2)
    assert keys(shots, "test") == keys(first, "test") and not set(keys(shots, "train_x")) & set(keys(shots, "test"))


def test_the_list_of_classes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """timm's 10,450, or one's own."""
    to_shards(root, parts=("train", "val"))
    assert read("ImageNet21K", root).num_classes == 3
    assert "has images of 3 of 10450 classes" in capsys.readouterr().out
    (root / "imagenet21k_resized/synsets.txt").write_text("n00015388\nn00021265\n")
    assert read("ImageNet21K", root).classnames == ["animal", "food, nutrient"]


def test_a_second_name_of_the_folder(root: Path) -> None:
    to_shards(root)
    (root / "imagenet21k_resized").rename(root / "imagenet_21k")
    assert read("ImageNet21K", root).num_classes == 3


def test_folders_come_first(root: Path) -> None:
    folder = root / "imagenet21k_resized"
    write_shard(folder / "shards/imagenet_w21-train-0000.tar", [("readme", {"txt": b""})])
    assert rows(read("ImageNet21K", root), "train_x")[0][0].startswith("imagenet21k_train/")


def test_changed_shards_are_noticed(root: Path) -> None:
    shards = to_shards(root)
    before = len(read("ImageNet21K", root).train_x)
    write_shard(shards / "imagenet_w21-train-0003.tar", [("n00015388_777", sample("n00015388", picture("y")))])
    assert len(read("ImageNet21K", root).train_x) == before + 1
    write_shard(
        shards / "imagenet_w21-train-0003.tar",
        [(f"n00015388_77{i}", sample("n00015388", picture("y"))) for i in range(2)],
    )
    assert len(read("ImageNet21K", root).train_x) == before + 2


# Bad shards

IMAGE = sample("n00015388", picture("z"))


def cut(at: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, at(path.stat().st_size))


def holding(*samples: tuple[str, Sample]) -> Callable[[Path], None]:
    return lambda path: write_shard(path, samples)


def linked(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("n00015388_1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)


def last_member(path: Path) -> None:
    """Cut exactly behind a member: Python's tarfile reads on without a word."""
    found = list(members(path))
    os.truncate(path, found[-3].offset - 1024 - 512)  # a header, and an extended one with its content


BAD = {
    "cut": (cut(lambda size: size // 2), "is cut short"),
    "cut between members": (last_member, "is cut short"),
    "empty file": (cut(lambda size: 0), "is cut short"),
    "no tar": (lambda path: path.write_bytes(b"<html>" + bytes(2000)), "is no tar file without compression"),
    "missing": (Path.unlink, "is missing"),
    "foreign member": (holding(("README", {"txt": b"hello"})), "'README.txt', which belongs to no image"),
    "link": (linked, "which is neither a file nor a folder"),
    "two images": (holding(("n00015388_1", {**IMAGE, "webp": b""})), "holds 'n00015388_1' twice"),
    "the same twice": (holding(("n00015388_1", IMAGE), ("n00015388_1", IMAGE)), "holds 'n00015388_1' twice"),
    "no id": (holding(("cat_1", {"jpg": picture("z"), "cls": b"3"})), "neither the key 'cat_1' nor"),
    "no id in json": (holding(("cat_1", {"jpg": b"", "json": b'{"label": 3}'})), "neither the key 'cat_1' nor"),
    "broken json": (holding(("cat_1", {"jpg": b"", "json": b"{"})), "is not a sample's description in JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_shard_is_named_or_left_out(root: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    shards = to_shards(root)
    damage, message = BAD[kind]
    bad = shards / "imagenet_w21-train-0001.tar"
    lost = len(list(members(bad))) // 3
    total = len(read("ImageNet21K", root).train_x)
    damage(bad)
    for _ in ("indexed", "from the index"):
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read("ImageNet21K", root)
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
        assert "DATALOADER.SKIP_BROKEN" in str(caught.value)
        capsys.readouterr()
        assert len(read_tolerant(root).train_x) == total - lost
        assert "1 shards are left out" in capsys.readouterr().out


def test_an_image_in_two_shards(root: Path) -> None:
    shards = to_shards(root)
    again = samples_of(root / "imagenet21k_resized/imagenet21k_val")[:1]
    write_shard(shards / "imagenet_w21-train-0003.tar", [("n00015388_1", IMAGE)])
    write_shard(shards / "imagenet_w21-train-0004.tar", again)  # a test image: not taken, so not twice
    with pytest.raises(ValueError, match=r"'n00015388_1.jpg' is there twice: in imagenet_w21-train-000\d.tar and"):
        read_tolerant(root)
    assert not (root / "imagenet21k_resized/index/shards_train.safetensors").exists()


def test_no_shards(root: Path) -> None:
    shards = to_shards(root)
    for path in shards.iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no train shards \(\*\.tar\) in .*/shards, which is empty"):
        read("ImageNet21K", root)
    shards.rmdir()
    with pytest.raises(FileNotFoundError, match="no folder imagenet21k_train or shards in"):
        read("ImageNet21K", root)


def test_no_image_of_the_classes(root: Path) -> None:
    shards = to_shards(root)
    for path in shards.iterdir():
        write_shard(path, [(f"n09999999_{path.stem[-1]}", sample("n09999999", picture("x")))])
    with pytest.raises(ValueError, match="hold no image of the 3 classes"):
        read("ImageNet21K", root)


TIMM = {"splits": {"train": {"filenames": ["imagenet_w21-train-0000.tar"], "shard_lengths": [5]}}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("_info.json", TIMM, "holds 2 samples, and the list beside it says 5"),
        ("sizes.json", {"imagenet_w21-train-0000.tar": 2, "imagenet_w21-train-0001.tar": 2}, "0001.tar is missing"),
        ("info.json", {"splits": {"train": {}}}, "is not a list of shards"),
        ("info.json", [], "is not a list of shards"),
    ],
)
def test_the_list_beside_the_shards(root: Path, name: str, content: object, message: str) -> None:
    shards = to_shards(root, parts=("train", "val"))
    for path in shards.iterdir():
        path.unlink()
    both = [(f"n00015388_{i}", sample("n00015388", picture("x"))) for i in range(2)]
    write_shard(shards / "imagenet_w21-train-0000.tar", both)
    (shards / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read("ImageNet21K", root)


def test_a_shard_that_went_away_or_changed_during_a_run(root: Path) -> None:
    shards = to_shards(root)
    dataset = read("ImageNet21K", root)
    for path in shards.iterdir():
        os.truncate(path, 700)
    with pytest.raises(BrokenImageError, match=r"Cannot read the image .*-train-000\d.tar:\d+\+\d+:n00005787_0.jpg"):
        dataset.train_x[0].load()
    for path in shards.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="No tar file at"):
        dataset.train_x[0].load()


# The reader of tar files

LONG = "a folder of a long name/" * 6 + "n00015388_1.jpg"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [0, 1.5])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, kind: int, mtime: float) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=kind) as tar:
        for name in ("n1.jpg", LONG, "caf\u00e9/n2.jpg", "empty"):
            content = tmp_path / "content"
            content.write_bytes(b"" if name == "empty" else os.urandom(len(name) * 9))
            member = tar.gettarinfo(content, name)
            member.mtime = mtime
            with open(content, "rb") as file:
                tar.addfile(member, file)
        tar.add(tmp_path, "folder", recursive=False)
    with tarfile.open(path) as tar:
        expected = [Member(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert list(members(path)) == expected and len(expected) == 4
