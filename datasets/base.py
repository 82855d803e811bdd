"""What all readers share: finding the files, few-shot picks, base/new classes, and notes on what was found."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from yacs.config import CfgNode

from dassl.data.datasets import DatasetBase, Datum, Table
from dassl.utils import read_text

from .checks import check_labels, describe, first, note_duplicate_names, note_short_classes, without_images
from .fewshot import Picks, load_picks, note_pickles, rows_hash, save_picks, seeded
from .splits import Item, Split, class_folders, folder_items, read_split, split_classes
from .templates import ensemble

MAX_VAL_SHOTS = 4


class ImageDataset(DatasetBase):
    """Turns three lists of items into a data set: checks, base/new classes, absolute paths."""

    test_only = False  # the test images also stand in for training images; shots and base/new do not apply

    def __init__(self, cfg: CfgNode, image_dir: Path, split: Split, whole: Sequence[Item] = ()) -> None:
        """``whole``: all training images, where those of ``split`` are a few of them."""
        self.image_dir = image_dir
        self.template = cfg.DATASET.TEMPLATE or self.template
        if "{}" not in self.template:
            raise ValueError(f"DATASET.TEMPLATE {self.template!r} has no {{}} where the class name belongs")
        check_labels(split, f"{type(self).__name__} in {image_dir}")
        note_duplicate_names(split.train)
        lists = [self._data(items) for items in split]
        if split.val is split.test:
            lists[1] = lists[2]
        train, val, test = lists if self.test_only else self._subsample(lists, cfg.DATASET.SUBSAMPLE_CLASSES)
        hidden, self.all_classnames = self._unlabelled(whole or split.train, cfg.DATASET.ALL_AS_UNLABELED)
        try:
            super().__init__(train_x=train, train_u=hidden, val=val, test=test)
        except FileNotFoundError as error:
            hint = f"Looked in {image_dir}: is the archive unpacked completely, and into this folder?"
            empty = without_images(item for items in (train, val, test) for item in items or ())
            hint += f"\nNo image at all of {first(empty)}" if empty else ""
            raise FileNotFoundError(f"{type(self).__name__}: {error}\n{hint}") from error

    @property
    def templates(self) -> list[str]:
        """The family's small ensemble: seven general templates and the data set's own."""
        return ensemble(self.template)

    def draw_fewshot(self, split: Split, num_shots: int, seed: int) -> Picks:
        """Draw ``num_shots`` training images of each class, then at most four validation images, as the family does.

        A negative seed draws from Python's generator as it stands.
        """
        note_short_classes(split.train, num_shots)
        with seeded(seed):
            train = self.generate_fewshot_dataset(split.train, num_shots=num_shots)
            shots = min(num_shots, MAX_VAL_SHOTS)
            val = self.generate_fewshot_dataset(split.val, num_shots=shots) if split.val else []
        return train, val

    def _data(self, items: Sequence[Item]) -> Sequence[Datum]:
        return items.map(self._datum) if isinstance(items, Table) else [self._datum(item) for item in items]

    def _datum(self, item: Item) -> Datum:
        return Datum(os.path.join(self.image_dir, item.path), label=item.label, classname=item.classname)

    def _unlabelled(self, items: Sequence[Item], wanted: bool) -> tuple[Sequence[Datum] | None, list[str]]:
        """The images of all classes, with label -1, and the names of these classes; none if they are not wanted."""
        if not wanted:
            return None, []
        labels, names = self.get_lab2cname(items)
        data = self._data(items)
        hide = data.relabel if isinstance(data, Table) else lambda to: [item.relabel(to[item.label]) for item in data]
        return hide(dict.fromkeys(labels, -1)), names

    def _subsample(self, lists: list[Sequence[Datum]], subsample: str) -> list[Sequence[Datum]]:
        train, val, test = lists
        if val is test:
            train, test = self.subsample_classes(train, test, subsample=subsample)
            return [train, test, test]
        return self.subsample_classes(train, val, test, subsample=subsample)


class PublishedDataset(ImageDataset):
    """A published data set in a folder of its own below ``DATASET.ROOT``."""

    dataset_dirs: tuple[str, ...] = ()  # names of that folder, the family's first; the first that exists is taken
    image_dirs: tuple[str, ...] = ("images",)  # the same for the folder inside it that image paths start from

    def __init__(self, cfg: CfgNode) -> None:
        root = Path(os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT)))
        self.dataset_dir = self._find(root, self.dataset_dirs)
        self.image_dir = self._find(self.dataset_dir, self.image_dirs)
        note_pickles(self.dataset_dir)
        shots, split = cfg.DATASET.NUM_SHOTS, self.load(cfg.DATASET.NUM_SHOTS, cfg.SEED)
        whole = self.load(0, cfg.SEED).train if cfg.DATASET.ALL_AS_UNLABELED and shots >= 1 else ()
        super().__init__(cfg, self.image_dir, split, whole)

    def load(self, num_shots: int, seed: int) -> Split:
        """The lists of images, few-shot picks already made."""
        raise NotImplementedError

    def need(self, name: str) -> Path:
        """Path of a file of the data set, or an error that says how to get it."""
        path = self.dataset_dir / name
        if path.is_file():
            return path
        raise FileNotFoundError(self._missing("file", path.parent, (path.name,)))

    def read_lines(self, name: str) -> list[str]:
        """Lines of a text file of the data set, stripped, without empty ones."""
        return [line.strip() for line in read_text(str(self.need(name))).splitlines() if line.strip()]

    def keep_fewshot(self, read: Callable[[], Split], num_shots: int, seed: int, source: str) -> Picks:
        """Few-shot picks from the kept list if that was made from ``source``, else drawn from ``read()`` and kept."""
        if seed < 0:
            return self.draw_fewshot(read(), num_shots, seed)
        path = self.dataset_dir / "split_fewshot" / f"shot_{num_shots}-seed_{seed}.json"
        source = rows_hash([], source, num_shots, seed)
        picks = load_picks(path, source)
        if picks is None:
            picks = self.draw_fewshot(read(), num_shots, seed)
            save_picks(path, source, picks)
        return picks

    def _find(self, parent: Path, names: tuple[str, ...]) -> Path:
        for name in names:
            if (parent / name).is_dir():
                return parent / name
        raise FileNotFoundError(self._missing("folder", parent, names))

    def _missing(self, kind: str, parent: Path, names: tuple[str, ...]) -> str:
        name = type(self).__name__
        return (
            f"{name}: no {kind} {' or '.join(names)} in {parent}, {describe(parent)}. Set --root to the folder "
            f"that holds {self.dataset_dirs[0]}; 'python -m tools.data fetch {name}' gets the data (docs/datasets.md)"
        )


class ListedDataset(PublishedDataset):
    """A data set whose images are listed in the CoOp authors' ``split_zhou_*.json``.

    Without that file a split is cut with the authors' procedure but our seed: good for work, not for comparison.
    """

    split_file = ""
    ignored_folders: tuple[str, ...] = ()
    renamed_folders: ClassVar[dict[str, str]] = {}

    def load(self, num_shots: int, seed: int) -> Split:
        split = self.read_split()
        if num_shots < 1:
            return split
        train, val = self.keep_fewshot(lambda: split, num_shots, seed, rows_hash(split.train + split.val))
        return Split(train, val, split.test)

    def read_split(self) -> Split:
        """The full lists, before few-shot picks."""
        path = self.dataset_dir / self.split_file
        if path.is_file():
            print(f"Reading split from {path}")
            return read_split(path)
        print(
            f"Note: {path} is missing, so a split is cut here, always the same; published numbers use the authors' "
            f"file ('python -m tools.data fetch {type(self).__name__}' gets it)"
        )
        return self.make_split()

    def make_split(self) -> Split:
        """Cut the class folders below the image folder; labels follow the folders' own names."""
        folders = class_folders(self.image_dir, self.ignored_folders)
        names = [self.renamed_folders.get(folder, folder) for folder in folders]
        return split_classes(folder_items(self.image_dir, "", folders, names))
