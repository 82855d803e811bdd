"""Items, data sets, few-shot sampling and the base/new halves of the classes."""

import copy
import hashlib
import math
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from PIL import Image

from dassl.data.datasets.table import Table, one_per_class
from dassl.utils import log, read_image

__all__ = ["DatasetBase", "Datum", "check_classnames", "fewshot_hash"]


def check_classnames(names: Iterable[str], source: str) -> None:
    """``ValueError`` for names of classes that are empty, or that a text encoder reads as one and the same."""
    seen: dict[str, str] = {}
    for name in names:
        text = " ".join(name.replace("_", " ").lower().split())
        if not text:
            raise ValueError(f"{source}: the class name {name!r} is empty")
        if text in seen:
            both = f"{name!r} is given twice" if name == seen[text] else f"{seen[text]!r} and {name!r} are the same"
            raise ValueError(f"{source}: the class name {both}; classes need different names")
        seen[text] = name


class Datum:
    """One labelled image.

    impath:    file of the image. A subclass whose images are no files overrides ``load``; impath then is a readable
               identifier that is unique in the data set.
    label:     class index from 0.
    domain:    domain index, 0 where there is one domain.
    classname: name of the class, underscores allowed.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        if not isinstance(impath, str):
            raise TypeError(f"impath must be a str, but got {impath!r}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    @property
    def impath(self) -> str:
        return self._impath

    @property
    def label(self) -> int:
        return self._label

    @property
    def domain(self) -> int:
        return self._domain

    @property
    def classname(self) -> str:
        return self._classname

    def load(self) -> Image.Image:
        """The image as RGB. ``FileNotFoundError``, or ``BrokenImageError`` if it cannot be decoded."""
        return read_image(self._impath)

    def relabel(self, label: int) -> "Datum":
        """A copy with another label, and domain 0."""
        other = copy.copy(self)
        other._label, other._domain = label, 0
        return other

    def _key(self) -> tuple[str, int, int, str]:
        return self._impath, self._label, self._domain, self._classname

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Datum) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        impath, label, domain, classname = self._key()
        return f"{type(self).__name__}({impath=}, {label=}, {domain=}, {classname=})"


class DatasetBase:
    """Lists of ``Datum``: labelled training, unlabelled training, validation and test images.

    Class names and their number come from ``train_x``. ``FileNotFoundError`` if image files are missing.
    """

    dataset_dir = ""
    domains: Sequence[str] = ()
    template = "a photo of a {}."
    templates: Sequence[str] = ()  # for ensembles

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._check_files()
        self._num_classes = self.get_num_classes(train_x or [])
        self._lab2cname, self._classnames = self.get_lab2cname(train_x or [])

    @property
    def train_x(self) -> list[Datum] | None:
        return self._train_x

    @property
    def train_u(self) -> list[Datum] | None:
        return self._train_u

    @property
    def val(self) -> list[Datum] | None:
        return self._val

    @property
    def test(self) -> list[Datum] | None:
        return self._test

    @property
    def num_classes(self) -> int:
        return self._num_classes

    @property
    def lab2cname(self) -> dict[int, str]:
        return self._lab2cname

    @property
    def classnames(self) -> list[str]:
        """Class names ordered by label."""
        return self._classnames

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum]) -> int:
        """Largest label + 1."""
        return max((item.label for item in one_per_class(data_source)), default=-1) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum]) -> tuple[dict[int, str], list[str]]:
        """Class name by label, and the names ordered by label. The first name of a label counts."""
        names: dict[int, str] = {}
        for item in one_per_class(data_source):
            names.setdefault(item.label, item.classname)
        names = dict(sorted(names.items()))
        return names, list(names.values())

    @staticmethod
    def split_dataset_by_label(data_source: Iterable[Datum]) -> dict[int, Sequence[Datum]]:
        """Items by label; labels in the order in which they first appear."""
        if isinstance(data_source, Table):
            return data_source.by_label()
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.label].append(item)
        return groups

    @staticmethod
    def split_dataset_by_domain(data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Items by domain; domains in the order in which they first appear."""
        groups: defaultdict[int, list[Datum]] = defaultdict(list)
        for item in data_source:
            groups[item.domain].append(item)
        return groups

    @classmethod
    def generate_fewshot_dataset(
        cls, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False
    ) -> list[Datum] | list[list[Datum]]:
        """``num_shots`` items of each class, drawn from Python's global ``random``.

        A class with fewer items is taken whole, or filled up by drawing with replacement if ``repeat``. Returns one
        list for one source, a list of lists for several. ``num_shots`` below 1 returns the sources as they are.
        """
        if num_shots >= 1:
            log.info(f"Creating a {num_shots}-shot dataset")
            outputs = [cls._draw_shots(source, num_shots, repeat) for source in data_sources]
        else:
            outputs = list(data_sources)
        return outputs[0] if len(outputs) == 1 else outputs

    @classmethod
    def _draw_shots(cls, source: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        picked: list[Datum] = []
        for items in cls.split_dataset_by_label(source).values():
            if len(items) >= num_shots:
                picked += random.sample(items, num_shots)
            else:
                picked += random.choices(items, k=num_shots) if repeat else items
        return picked

    @staticmethod
    def subsample_classes(*data_sources: list[Datum], subsample: str = "all") -> list[list[Datum]]:
        """All classes, or their ``base`` (first) or ``new`` (second) half by label; labels then start from 0 again.

        The labels of the first source decide; of n classes ``base`` has ceil(n / 2). Items of other classes are
        dropped from every source, their order is kept. Always returns one list per source.
        """
        if subsample not in ("all", "base", "new"):
            raise ValueError(f'DATASET.SUBSAMPLE_CLASSES must be "all", "base" or "new", but got "{subsample}"')
        if subsample == "all":
            return list(data_sources)
        log.info(f"SUBSAMPLE {subsample.upper()} CLASSES!")
        labels = sorted({item.label for item in one_per_class(data_sources[0])})
        middle = math.ceil(len(labels) / 2)
        selected = labels[:middle] if subsample == "base" else labels[middle:]
        if not selected:
            raise ValueError(
                f'"{subsample}" classes were asked for, but the data set has {len(labels)} class(es) in all'
            )
        new_label = {label: position for position, label in enumerate(selected)}
        return [
            source.relabel(new_label)
            if isinstance(source, Table)
            else [item.relabel(new_label[item.label]) for item in source if item.label in new_label]
            for source in data_sources
        ]

    def check_input_domains(self, source_domains: Iterable[str], target_domains: Iterable[str]) -> None:
        """``ValueError`` for a domain that the data set does not have."""
        for domain in (*source_domains, *target_domains):
            if domain not in self.domains:
                raise ValueError(f"the domain must be one of {list(self.domains)}, but got {domain!r}")

    def _check_files(self) -> None:
        """One error for all files that are missing. Items with their own ``load`` are no files, a table's were seen."""
        splits = (self._train_x, self._train_u, self._val, self._test)
        splits = [split for split in splits if not isinstance(split, Table)]
        paths = {item.impath: None for split in splits for item in split or () if type(item).load is Datum.load}
        missing = [path for path in paths if not os.path.isfile(path)]
        if missing:
            shown = "".join(f"\n  {path}" for path in missing[:3])
            more = f"\n  and {len(missing) - 3:,} more" if len(missing) > 3 else ""
            raise FileNotFoundError(f"{len(missing):,} of {len(paths):,} image files are missing:{shown}{more}")


def fewshot_hash(items: Iterable[Datum], root: str = "") -> str:
    """SHA-256 (hexadecimal) of the items' paths relative to ``root``, joined by newlines, in their order."""
    paths = [item.impath for item in items]
    if root:
        prefix = os.path.join(os.path.abspath(os.path.expanduser(root)), "")
        paths = [path.removeprefix(prefix) for path in paths]
    return hashlib.sha256("\n".join(path.replace(os.sep, "/") for path in paths).encode()).hexdigest()
