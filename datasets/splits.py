"""Lists of images: what a row is, how files are found, and the two ways in which the CoOp family cuts a split."""

import os
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dassl.data.datasets import Table, Without, class_sizes
from dassl.utils import read_json, reading

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLIT_SEED = 0  # of the splits drawn here when the authors' split file is missing


class Item(NamedTuple):
    """An image as a list on disk names it; the engine's ``Datum`` is made of it where the folder is known."""

    path: str  # below the image folder, parts joined by "/"
    label: int
    classname: str


class Split(NamedTuple):
    """The three lists of a data set."""

    train: Sequence[Item]
    val: Sequence[Item]
    test: Sequence[Item]


def read_split(path: Path) -> Split:
    """Read ``{"train": [[path, label, class name], ...], "val": ..., "test": ...}``; the order of the rows is kept."""
    what = "a split file: expected an object with the lists train, val and test of [path, label, class name] rows"
    content = read_json(str(path))
    with reading(str(path), what):
        return Split(*([_item(*row) for row in content[name]] for name in Split._fields))


def _item(path: str, label: int, classname: str) -> Item:
    if not isinstance(path, str) or not isinstance(classname, str):
        raise TypeError(f"no text in [{path!r}, {label!r}, {classname!r}]")
    return Item(path, int(label), classname)


def class_folders(folder: Path, ignored: Iterable[str] = ()) -> list[str]:
    """Sub-folders (links to folders count) in code-point order, without hidden and ignored ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in ignored)


def list_images(folder: Path) -> list[str]:
    """Names of the image files directly in a folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and not e.name.startswith("."))


def folder_items(image_dir: Path, prefix: str, folders: list[str], classnames: list[str]) -> list[Item]:
    """Items of ``image_dir/prefix/<folder>/*``; the label is the folder's position."""
    items = []
    for label, (folder, name) in enumerate(zip(folders, classnames, strict=True)):
        images = list_images(image_dir / prefix / folder)
        if not images:
            raise ValueError(f"{image_dir / prefix / folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
        base = os.path.join(prefix, folder).replace(os.sep, "/")
        items += [Item(f"{base}/{image}", label, name) for image in images]
    return items


def label_of(name: str, labels: dict[str, int], source: str) -> int:
    """Label of a class name found in an image list, or an error that names the list of classes."""
    if name not in labels:
        raise ValueError(f"class {name!r} has images but is not among the {len(labels)} classes of {source}")
    return labels[name]


def group_by_label(items: Iterable[Item]) -> dict[int, list[Item]]:
    """Items of each label; labels in the order in which they first appear."""
    groups = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    return dict(groups)


def split_classes(items: list[Item], seed: int = SPLIT_SEED) -> Split:
    """Cut every class at random into 50 % train, 20 % val and 30 % test (rounded half to even)."""
    rng, split = random.Random(seed), Split([], [], [])
    for group in group_by_label(items).values():
        n_train, n_val = round(0.5 * len(group)), round(0.2 * len(group))
        if not 0 < n_val < len(group) - n_train:
            raise ValueError(
                f"class {group[0].classname!r} has {len(group)} images, too few for a split into train, val and test: "
                "4 are needed"
            )
        rng.shuffle(group)
        split.train.extend(group[:n_train])
        split.val.extend(group[n_train : n_train + n_val])
        split.test.extend(group[n_train + n_val :])
    return split


def hold_out_val(train: list[Item], test: list[Item], seed: int = SPLIT_SEED) -> Split:
    """Official train and test images, with 20 % of each class's training images held out at random as val."""
    rng, split = random.Random(seed), Split([], [], test)
    for group in group_by_label(train).values():
        n_val = round(0.2 * len(group))
        if n_val == 0:
            raise ValueError(f"class {group[0].classname!r} has {len(group)} training images, too few to hold out 20 %")
        rng.shuffle(group)
        split.val.extend(group[:n_val])
        split.train.extend(group[n_val:])
    return split


def hold_out(
    train: Table[Item], count: int, seed: int, picked: Iterable[Item] = (), num_classes: int = 0
) -> tuple[Table[Item], Table[Item]]:
    """``train`` without ``count`` images of each class, and these: drawn by ``seed``, none of them ``picked``.

    A class keeps at least half of its images. num_classes: only from so many classes, which are drawn; 0: from all.
    """
    rng, taken = random.Random(max(seed, 0)), {item.path for item in picked}
    labels = [label for label, _ in train.groups]
    chosen = {*random.Random(max(seed, 0)).sample(labels, min(num_classes or len(labels), len(labels)))}
    shots = class_sizes(picked)
    rest, held = [], []
    for label, rows in train.groups:
        drawn = rng.sample(range(len(rows)), min(len(rows), count + shots[label]))
        free = [at for at in drawn if not taken or train.make(rows[at], label).path not in taken]
        out = sorted(free[: min(count, len(rows) // 2)]) if label in chosen else []
        rest.append((label, Without(rows, out)))
        held.append((label, [rows[at] for at in out]))
    return Table(rest, train.make), Table(held, train.make)
