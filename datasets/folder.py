"""Your own images: class folders (``Folder``), or a list in a CSV or JSON file (``CSV``).

    python train.py ... DATASET.NAME Folder DATASET.PATH ~/photos
    python train.py ... DATASET.NAME CSV DATASET.PATH ~/photos/list.csv

Where neither val nor test images are named, every class is cut into 50/20/30 % by the run's seed; nothing is written.
"""

import os
import unicodedata
from collections import Counter
from pathlib import Path

from tabulate import tabulate
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, check_classnames

from .base import ImageDataset
from .checks import describe, first
from .duplicates import without_duplicates
from .imagenet import check_same_folders
from .lists import PARTS, name_for, read_names, read_rows
from .splits import Item, Split, class_folders, list_images, split_classes

MAX_ROWS = 200  # of the printed table of counts


class OwnImages(ImageDataset):
    """What folders and lists share: class names, splits, shots, and a table of counts."""

    shows_zeroshot = True  # trainers print a zero-shot number first: it shows a wrong folder or name at once

    def __init__(self, cfg: CfgNode) -> None:
        if not cfg.DATASET.PATH:
            raise ValueError(f"DATASET.NAME {cfg.DATASET.NAME} needs DATASET.PATH: {self.__doc__}")
        path = absolute(cfg.DATASET.PATH)
        if not path.exists():
            raise FileNotFoundError(
                f"DATASET.PATH {path} does not exist; its folder is {path.parent}, {describe(path.parent)}"
            )
        names = read_names(absolute(cfg.DATASET.CLASSNAMES)) if cfg.DATASET.CLASSNAMES else None
        image_dir = path if path.is_dir() else path.parent
        split = without_duplicates(self.read(path, names), image_dir, cfg.DATASET.DUPLICATES)
        split = complete(split, max(cfg.SEED, 0))
        check_names(split, path)
        print_counts(split)
        whole = split.train
        if cfg.DATASET.NUM_SHOTS >= 1:
            split = self._few(split, cfg.DATASET.NUM_SHOTS, cfg.SEED)
        super().__init__(cfg, image_dir, split, whole)

    def read(self, path: Path, names: dict[str, str] | None) -> Split:
        """The lists as they are given; val and test may be empty. ``names``: class name of each folder or label."""
        raise NotImplementedError

    def _few(self, split: Split, num_shots: int, seed: int) -> Split:
        if split.val is split.test:
            return split._replace(train=self.draw_fewshot(split._replace(val=[]), num_shots, seed)[0])
        train, val = self.draw_fewshot(split, num_shots, seed)
        return Split(train, val, split.test)


@DATASET_REGISTRY.register()
class Folder(OwnImages):
    """A folder of class folders, or of train/, val/ and test/ folders of class folders."""

    def read(self, path: Path, names: dict[str, str] | None) -> Split:
        parts = part_folders(path)
        train = parts.get("train", "")
        folders = class_folders(path / train) if path.is_dir() else []
        if not folders:
            raise ValueError(f"no class folders in {path}, {describe(path)}; expected {path.name}/<class>/<image>")
        for other in parts.values():
            check_same_folders(path / train, folders, path / other, class_folders(path / other))
        classes = [(folder, name_for(folder, names)) for folder in folders]
        lists = {part: labelled_images(path, folder, classes) for part, folder in (parts or {"train": ""}).items()}
        empty = sorted(set(range(len(folders))) - {item.label for item in lists["train"]})
        if empty:
            raise ValueError(f"no images in {first([path / train / folders[label] for label in empty])}")
        return Split(lists["train"], lists.get("val", []), lists.get("test", []))


@DATASET_REGISTRY.register()
class CSV(OwnImages):
    """A .csv or .json list with path (from the list's folder), label or classname, and optionally split."""

    def read(self, path: Path, names: dict[str, str] | None) -> Split:
        rows = read_rows(path)
        keys = {row.key for row in rows}
        order = sorted(keys, key=int) if all(key.isdecimal() for key in keys) else sorted(keys)
        labels = {key: label for label, key in enumerate(order)}
        lists = {part: [] for part in Split._fields}
        for row in rows:
            name = row.classname if names is None and row.classname else name_for(row.key, names)
            lists[row.part].append(Item(row.path, labels[row.key], name))
        return Split(**lists)


def absolute(path: str) -> Path:
    """Absolute path, ``~`` expanded."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def part_folders(path: Path) -> dict[str, str]:
    """Names of the train, val and test folders if the class folders are in such; a class may be called train, too."""
    if not path.is_dir():
        return {}
    here = {folder for folder in class_folders(path) if class_folders(path / folder)}
    parts = {PARTS[folder]: folder for folder in sorted(here & PARTS.keys())}
    if parts and "train" not in parts:
        raise ValueError(f"{path} has {first(sorted(parts.values()))} but no train folder with class folders")
    return parts


def labelled_images(path: Path, part: str, classes: list[tuple[str, str]]) -> list[Item]:
    """Items of all images at any depth below ``path/part/<class folder>``; a loop of links is walked once."""
    items, again = [], []
    for label, (folder, name) in enumerate(classes):
        walked = set()
        for here, inner, _ in os.walk(path / part / folder, followlinks=True):
            base = Path(here).relative_to(path).as_posix()
            if (real := os.path.realpath(here)) in walked:
                again.append(base)
                inner.clear()
                continue
            walked.add(real)
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            items += [Item(f"{base}/{image}", label, name) for image in list_images(Path(here))]
    if again:
        print(f"Note: links lead to folders that are read already, and are not followed: {first(again)}")
    return items


def complete(split: Split, seed: int) -> Split:
    """Cut the images if there is one list only; without a test list, val serves as one."""
    if not split.val and not split.test:
        return split_classes(split.train, seed)
    if not split.test:
        print("Note: no test images are given, the val images serve as val and as test")
        return Split(split.train, split.val, split.val)
    return split


def check_names(split: Split, path: Path) -> None:
    """Refuse a single class and names that are empty or the same; tell about those that CLIP can make little of."""
    check_classnames(sorted(name for _, name in {(item.label, item.classname) for item in split.train}), str(path))
    names = sorted({item.classname for item in split.train})
    if len({item.label for item in split.train}) == 1:
        raise ValueError(f"{path} has only one class ({first(names)}); classification needs two or more")
    foreign = [name for name in names if not is_latin(name)]
    if foreign:
        print(
            f"Note: CLIP's text encoder knows English; class names in other alphabets: {first(foreign)} "
            "(DATASET.CLASSNAMES names a file that maps them)"
        )
    numbers = [name for name in names if name.isdecimal()]
    if numbers:
        print(
            f"Note: CLIP reads class names, and these are numbers: {first(numbers)} "
            "(DATASET.CLASSNAMES names a file that maps them)"
        )


def is_latin(name: str) -> bool:
    """Whether all letters of a name belong to the Latin alphabet."""
    return all("LATIN" in unicodedata.name(letter, "") for letter in name if letter.isalpha())


def print_counts(split: Split) -> None:
    """Print a table: images per class in each list."""
    counts = [Counter(item.label for item in items) for items in split]
    names = dict(sorted({item.label: item.classname for item in split.train}.items()))
    rows = [[label, name, *(count[label] for count in counts)] for label, name in names.items()]
    rows = rows[:MAX_ROWS] + ([["...", f"{len(rows) - MAX_ROWS} more"]] if len(rows) > MAX_ROWS else [])
    rows.append(["", "all classes", *map(len, split)])
    print(tabulate(rows, headers=["label", "class name", *Split._fields]))
