"""Shards: tar files of images as webdataset lays them out, read at random through an index.

A sample is what follows one another with the same name up to the first dot: ``n01440764_10026.jpg`` (or another image
suffix), and perhaps ``n01440764_10026.json`` and ``.cls``. Its class is the WordNet id that its key starts with, else
``class_name`` of its .json; .cls is never read, since its numbers belong to whoever wrote them.
"""

import json
import re
from array import array
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dassl.data.datasets import Table
from dassl.utils import log, read_json, reading

from .checks import describe, first
from .fewshot import fingerprint
from .index import ClassFolders, Content, columns_of, kept_index
from .splits import IMAGE_SUFFIXES, Item
from .tars import Member, members

KEY = re.compile(r"(n\d{8})_.+", re.DOTALL)
WORDNET_ID = re.compile(r"n\d{8}")
NUMBERED = re.compile(r"(.*?)(\d{1,5})\.tar")  # shards are numbered from 0
VAL = re.compile(r"(.*[-_.])?val(idation)?[-_.]?\d*\.tar")
SIZES = ("info.json", "_info.json", "sizes.json")  # of timm, timm and open_clip: how many samples each shard has
LARGEST_JSON = 1 << 20


class Shards:
    """The shards in a folder that make one part of a data set (``train`` or ``val``), and their index.

    classes: WordNet ids; images of others are left out, and so are classes without images.
    other: images that are not to be taken again: test images, which are in other people's training shards, too.
    skip_broken: do without missing and damaged shards; else they are an error.
    """

    def __init__(
        self,
        dataset_dir: Path,
        where: Path,
        part: str,
        classes: Collection[str],
        other: "ClassFolders | Shards | None" = None,
        skip_broken: bool = False,
    ) -> None:
        self.where, self.wanted = where, sorted(classes)
        self.others = other.items(other.classes) if other else ()
        self.prefix = where.relative_to(dataset_dir).as_posix()
        self.paths = part_of(where, part)
        if not self.paths:
            raise ValueError(f"no {part} shards (*.tar) in {where}, {describe(where)}")
        self.lengths = {name: n for name, n in known_lengths(where).items() if is_val(name) == (part == "val")}
        states = [(path.name, path.stat()) for path in self.paths]
        context = [self.prefix, self.lengths, self.wanted, other.source if other else ""]
        files = [f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states]
        self.source = fingerprint([json.dumps(context), *files])
        self.index = kept_index(dataset_dir, f"{where.name}_{part}", self.source, self._read)
        self.classes = self.index.classes
        self._report(self.index.notes["broken"], skip_broken)

    def items(self, classnames: list[str]) -> Table[Item]:
        """The images in order of class and name; labels are the classes' positions."""
        return self.index.items(self.prefix, classnames)

    def _report(self, broken: list[str], skip_broken: bool) -> None:
        if broken and not skip_broken:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise ValueError(
                f"{broken[0]}{more}. Get what is missing or damaged again, or choose DATALOADER.SKIP_BROKEN True to do "
                "without those shards"
            )
        if broken:
            log.info(f"Note: {len(broken)} shards are left out: {first(broken)}")
        if not self.classes:
            beside = " besides the test images, which are known by their names" if self.others else ""
            raise ValueError(f"the shards in {self.where} hold no image of the {len(self.wanted)} classes{beside}")
        if len(self.classes) < len(self.wanted):
            log.info(f"Note: {self.where} has images of {len(self.classes)} of {len(self.wanted)} classes")

    def _read(self) -> Content:
        """Read the names in all shards. ``ValueError`` for an image that is there twice."""
        labels = {wnid: label for label, wnid in enumerate(self.wanted)}
        taken = {key_of(item.path.rpartition(":")[2]) for item in self.others}
        broken, shards, images = missing_shards(self.paths, self.lengths), [], []

        def read(path: Path) -> "Images | str":
            try:
                return read_shard(path, labels, taken, self.lengths.get(path.name))
            except (OSError, ValueError) as error:
                return str(error)

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(read, self.paths)
            bar = tqdm(found, f"indexing {self.where}", len(self.paths), leave=False, unit=" shards", disable=None)
            for path, content in zip(self.paths, bar):
                if isinstance(content, str):
                    broken.append(content)
                else:
                    shards.append(path.name)
                    images.append(content)
        return sorted_by_class(images, shards, self.wanted)._replace(notes={"broken": broken})


class Images(NamedTuple):
    """The images of one shard, column by column, for there may be millions in all."""

    labels: array
    offsets: array
    sizes: array
    lengths: array  # of the names
    names: bytearray


def read_shard(path: Path, labels: dict[str, int], taken: Collection[str], count: int | None) -> Images:
    """The images of the classes in ``labels`` whose keys are not ``taken``. ``ValueError`` for a bad shard.

    count: how many samples there should be, of all classes.
    """
    images, found = Images(array("I"), array("Q"), array("I"), array("I"), bytearray()), 0
    for key, group in groupby(members(path), lambda member: key_of(member.name, folders=True)):
        found += 1
        image, wnid = read_sample(path, key, list(group))
        base = image.name.rpartition("/")[2]
        if wnid not in labels or key_of(base) in taken:
            continue
        name = base.encode(errors="surrogateescape")
        for column, value in zip(images, (labels[wnid], image.offset, image.size, len(name))):
            column.append(value)
        images.names.extend(name)
    if count is not None and found != count:
        raise ValueError(f"{path} holds {found} samples, and the list beside it says {count}")
    return images


def key_of(name: str, folders: bool = False) -> str:
    """A file name up to its first dot, as webdataset has it: what the files of a sample share."""
    folder, slash, base = name.rpartition("/")
    return f"{folder if folders else ''}{slash if folders else ''}{base.partition('.')[0]}"


def read_sample(path: Path, key: str, group: list[Member]) -> tuple[Member, str]:
    """The image of a sample and its WordNet id; ``ValueError`` if there is not exactly one image, or no id."""
    files = {member.name.rpartition("/")[2].partition(".")[2].lower(): member for member in group}
    images = [member for suffix, member in files.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(f"{path} holds {group[0].name!r}, which belongs to no image")
    if len(images) > 1 or len(files) < len(group):
        raise ValueError(f"{path} holds {key!r} twice")
    if match := KEY.fullmatch(key.rpartition("/")[2]):
        return images[0], match[1]
    wnid = class_name(path, files["json"]) if "json" in files else ""
    if not WORDNET_ID.fullmatch(wnid):
        raise ValueError(f"{path}: neither the key {key!r} nor the sample's .json ('class_name') has a WordNet id")
    return images[0], wnid


def class_name(path: Path, member: Member) -> str:
    with open(path, "rb") as file:
        file.seek(member.offset)
        content = file.read(min(member.size, LARGEST_JSON))
    with reading(f"{path}: {member.name}", "a sample's description in JSON"):
        return str(json.loads(content).get("class_name", ""))


def sorted_by_class(images: list[Images], shards: list[str], classes: list[str]) -> Content:
    """Content of an index: images by class, then by name; ``ValueError`` for two with one key in one class."""
    names = b"".join(each.names for each in images)
    labels, offsets, sizes, lengths = (
        np.concatenate([np.zeros(0, kind), *(np.asarray(each[i]) for each in images)])
        for i, kind in enumerate((np.uint32, np.uint64, np.uint32, np.uint32))
    )
    shard = np.repeat(np.arange(len(images)), [len(each.labels) for each in images])
    ends, counts = np.cumsum(lengths, dtype=np.uint64), np.bincount(labels, minlength=len(classes))
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    order, blob = np.empty(len(labels), np.int64), bytearray()
    done = 0
    for rows in tqdm(by_class, "sorting", unit=" classes", leave=False, disable=None):
        if not len(rows):
            continue
        own = sorted((names[int(ends[row]) - int(lengths[row]) : int(ends[row])], row) for row in rows.tolist())
        for (name, row), (after, other) in pairwise(own):
            if name.partition(b".")[0] == after.partition(b".")[0]:
                both = " and ".join(dict.fromkeys(shards[shard[each]] for each in (row, other)))
                raise ValueError(f"the image {name.decode(errors='replace')!r} is there twice: in {both}")
        order[done : done + len(own)] = [row for _, row in own]
        blob += b"".join(name for name, _ in own)
        done += len(own)
    columns = {"shard": shard[order], "offset": offsets[order], "size": sizes[order]}
    columns |= {**columns_of(counts[counts > 0], lengths[order]), "names": np.frombuffer(blob, np.uint8)}
    return Content([name for name, count in zip(classes, counts) if count], columns, shards)


def part_of(where: Path, part: str) -> list[Path]:
    """Shards that belong to a part by their names; ``train`` are all that are not ``val``."""
    return sorted(path for path in where.glob("*.tar") if is_val(path.name) == (part == "val"))


def is_val(name: str) -> bool:
    return bool(VAL.fullmatch(name))


def known_lengths(where: Path) -> dict[str, int]:
    """How many samples each shard has, where a list beside the shards says so."""
    path = next((where / name for name in SIZES if (where / name).is_file()), None)
    if path is None:
        return {}
    content = read_json(str(path))
    with reading(str(path), "a list of shards"):
        if "splits" not in content:
            return {Path(name).name: int(count) for name, count in content.items()}
        splits = content["splits"].values()
        pairs = (zip(split["filenames"], split["shard_lengths"], strict=True) for split in splits)
        return {Path(name).name: int(count) for split in pairs for name, count in split}


def missing_shards(paths: list[Path], lengths: dict[str, int]) -> list[str]:
    """One line for every shard that the list beside them, or a gap in their numbers, shows to be missing."""
    names = {path.name for path in paths}
    numbered = [match for match in map(NUMBERED.fullmatch, sorted(names)) if match]
    last = {match[1]: match[2] for match in numbered}
    expected = {f"{stem}{i:0{len(number)}d}.tar" for stem, number in last.items() for i in range(int(number))}
    return [f"{paths[0].parent / name} is missing" for name in sorted((expected | lengths.keys()) - names)]
