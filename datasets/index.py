"""The index of a data set's images: which there are, by class. Made once, then mapped into memory by every process.

One file, in the layout of safetensors (8 bytes: length of the header; the header, JSON; the columns), so that other
programs read it too. Rows are sorted by class, then by name. Columns, of N images of C classes, all unsigned integers:

    class_ends (C,)   images up to the end of each class
    name_ends (N,)    bytes of ``names`` up to the end of each name
    names (bytes,)    file names, one after another
    shard, offset, size (N,)   only for images in tar files: which file, first byte, bytes

About 28 bytes an image in class folders, 40 in tar files. ``__metadata__`` holds the classes, the tar files, and
``source``, a fingerprint of what was read: when that has changed, the index is made again.
"""

import json
import mmap
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dassl.data.datasets import Table
from dassl.utils import atomic_write, log, reading, taking_turns

from .fewshot import fingerprint
from .splits import IMAGE_SUFFIXES, Item, list_images
from .tars import locate

INDEX_DIR = "index"  # in the data set's folder; the user's cache where that cannot be written to
TYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64}  # by their names in the header
LARGEST_HEADER = 1 << 28


class Content(NamedTuple):
    """What an index is made of: classes sorted, and columns as above; ``notes`` is whatever else is to be kept."""

    classes: list[str]
    columns: dict[str, np.ndarray]
    shards: list[str] = []  # noqa: RUF012 (a tuple's default is never changed)
    notes: dict[str, object] = {}  # noqa: RUF012


class ImageIndex:
    """An index on disk, open for reading. Its columns are shared by all processes that have it open."""

    def __init__(self, path: str) -> None:
        self.path = path
        with reading(path, "an index of images", "delete it"), open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
            about = header.pop("__metadata__")
            self.source: str = about["source"]
            self.classes, self.shards, self.notes = (json.loads(about[key]) for key in ("classes", "shards", "notes"))
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.columns = {name: _column(content, 8 + length, **entry) for name, entry in header.items()}
            self._class_ends: list[int] = self.columns["class_ends"].tolist()
            if len(self._class_ends) != len(self.classes) or [0, *self._class_ends][-1] != len(self):
                raise ValueError("its columns do not fit together")

    def __len__(self) -> int:
        return len(self.columns["name_ends"])

    def __reduce__(self) -> tuple[type["ImageIndex"], tuple[str]]:
        return ImageIndex, (self.path,)  # a process that receives it maps the file, too

    def name(self, row: int) -> str:
        """File name of an image."""
        ends = self.columns["name_ends"]
        return os.fsdecode(self.columns["names"][int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes())

    def items(self, prefix: str, classnames: list[str]) -> Table[Item]:
        """All images; paths start with ``prefix``, the label is the class's position."""
        starts = [0, *self._class_ends]
        groups = [(label, range(starts[label], end)) for label, end in enumerate(self._class_ends)]
        return Table(groups, partial(self._item, prefix, classnames))

    def _item(self, prefix: str, classnames: list[str], row: int, label: int) -> Item:
        position = bisect_right(self._class_ends, row)
        if self.shards:
            shard, offset, size = (int(self.columns[name][row]) for name in ("shard", "offset", "size"))
            path = locate(self.shards[shard], offset, size, self.name(row))
        else:
            path = f"{self.classes[position]}/{self.name(row)}"
        return Item(f"{prefix}/{path}", label, classnames[position])


def _column(content: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    return np.frombuffer(content, TYPES[dtype], count=shape[0], offset=start + data_offsets[0])


def kept_index(dataset_dir: Path, name: str, source: str, make: Callable[[], Content]) -> ImageIndex:
    """The index kept under ``name`` if it was made from ``source``, else that of ``make()``, which is then kept.

    Of several processes one makes it, the others wait. ``OSError`` if it can be kept nowhere.
    """
    folders = [dataset_dir / INDEX_DIR, cache_dir(dataset_dir)]
    for folder in folders:
        if index := fresh(folder / f"{name}.safetensors", source):
            return index
    folder = next((folder for folder in folders if writable(folder)), folders[-1])
    path = folder / f"{name}.safetensors"
    with taking_turns(str(folder), "the index of images"):
        return fresh(path, source) or write_index(path, source, make())


def cache_dir(dataset_dir: Path) -> Path:
    """Where the indices of a data set go whose folder is read-only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "prompt-learning-clip" / fingerprint([str(dataset_dir)])[:16]


def writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def fresh(path: Path, source: str) -> ImageIndex | None:
    """The index in ``path``, or None if there is none, it is damaged, or it was made from something else."""
    try:
        index = ImageIndex(str(path))
    except OSError:
        return None
    except ValueError as error:
        log.info(f"Note: {error}; it is made again")
        return None
    return index if index.source == source else None


def write_index(path: Path, source: str, content: Content) -> ImageIndex:
    """Write an index, all or nothing, and open it."""
    columns = {name: shrunk(column) for name, column in content.columns.items()}
    about = {"classes": content.classes, "shards": content.shards, "notes": content.notes}
    header: dict[str, object] = {
        "__metadata__": {"source": source, **{key: json.dumps(value) for key, value in about.items()}}
    }
    at = 0
    order = sorted(columns, key=lambda name: -columns[name].itemsize)  # wide ones first: all stay aligned
    for name in order:
        column = columns[name]
        kind, end = f"U{8 * column.itemsize}", at + column.nbytes
        header[name] = {"dtype": kind, "shape": [len(column)], "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(str(path)) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(columns[name])
    return ImageIndex(str(path))


def shrunk(column: np.ndarray) -> np.ndarray:
    """The column in the narrowest type that holds it."""
    return np.ascontiguousarray(column, np.min_scalar_type(int(column.max(initial=0))))


class ClassFolders:
    """Class folders with images in them, ``image_dir/folder/<class>/<image>``, and their index."""

    def __init__(self, dataset_dir: Path, image_dir: Path, folder: str, classes: list[str]) -> None:
        self.dataset_dir, self.folder, self.classes = dataset_dir, folder, classes
        self.where = image_dir / folder
        # A folder's time changes when an image comes or goes: reading millions of names is left to the first run.
        times = [(self.where / name).stat().st_mtime_ns for name in classes]
        self.source = fingerprint([str(self.where.relative_to(dataset_dir)), *classes, *map(str, times)])

    def items(self, classnames: list[str]) -> Table[Item]:
        """The images in order of class and name; labels are the classes' positions."""
        index = kept_index(self.dataset_dir, self.folder, self.source, self._read)
        return index.items(self.folder, classnames)

    def _read(self) -> Content:
        counts, lengths, names = array("Q"), array("I"), bytearray()
        folders = [self.where / name for name in self.classes]
        with ThreadPoolExecutor(8) as pool:  # of a network's files, most of the time is waiting
            lists = pool.map(list_images, folders)
            bar = tqdm(lists, f"indexing {self.where}", len(folders), leave=False, unit=" classes", disable=None)
            for folder, images in zip(folders, bar):
                if not images:
                    raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
                encoded = [os.fsencode(image) for image in images]
                counts.append(len(images))
                lengths.extend(map(len, encoded))
                names += b"".join(encoded)
        return Content(self.classes, {**columns_of(counts, lengths), "names": np.frombuffer(names, np.uint8)})


def columns_of(counts: Sequence[int], lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """``class_ends`` and ``name_ends``, of the classes' sizes and the names' lengths."""
    ends = (np.cumsum(each, dtype=np.uint64) for each in (counts, lengths))
    return dict(zip(("class_ends", "name_ends"), ends))
