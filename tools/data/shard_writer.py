"""Write shards that webdataset, timm and the reader of ImageNet-21K read: from class folders, or from parquet files.

A sample is ``<WordNet id>_<id>.jpg`` (or the suffix that the image has) as it lies in the source, a ``.json`` with
label, class_name, width and height, and a ``.cls`` with the label, which is the class's position. ``info.json`` lists
the shards and how many samples each has. It is written first, so that an interrupted run cannot pass for a whole one.
"""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from dassl.utils import atomic_write, read_json, read_text, reading, sole_user_of, write_json
from datasets.checks import describe, first
from datasets.fewshot import fingerprint
from datasets.imagenet_21k import timm_synsets
from datasets.index import ClassFolders
from datasets.shards import WORDNET_ID, is_val, key_of
from datasets.splits import class_folders

INFO = "info.json"
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}  # of what parquet files hold, by what it begins with


class Sample(NamedTuple):
    """An image as it is stored."""

    key: str
    suffix: str
    label: int
    content: bytes


class Source(Protocol):
    """Images to be written."""

    classes: list[str]  # WordNet ids by label
    fingerprint: str

    def __len__(self) -> int: ...

    def samples(self, start: int, stop: int) -> Iterator[Sample]:
        """Those of one shard; the same in every run."""


def write_shards(source: Source, into: Path, name: str, per_shard: int) -> None:
    """Write ``<name>-0000.tar`` and so on into a folder; those that are there already are kept.

    ``ValueError`` if shards of other images are there.
    """
    count = -(-len(source) // per_shard)
    width = max(4, len(str(count - 1)))
    paths = [into / f"{name}-{i:0{width}d}.tar" for i in range(count)]
    with sole_user_of(str(into)):
        for leftover in into.glob(f".{name}-*.tmp"):  # of a killed run
            leftover.unlink()
        lengths = [min(per_shard, len(source) - i * per_shard) for i in range(count)]
        write_info(into, name, [path.name for path in paths], lengths, source.fingerprint)
        with tqdm(total=len(source), desc=str(into), unit=" images", disable=None) as bar:
            for i, (path, length) in enumerate(zip(paths, lengths)):
                if not path.exists():
                    write_shard(path, source.samples(i * per_shard, i * per_shard + length), source.classes)
                bar.update(length)
    print(f"{into}: {len(source):,} images of {len(source.classes):,} classes in {count:,} shards {name}-*.tar")


def write_info(into: Path, name: str, files: list[str], lengths: list[int], source: str) -> None:
    """Add the shards to the list beside them, unless it has them."""
    path, split = into / INFO, "validation" if is_val(files[0]) else "train"
    about = {"name": name, "filenames": files, "shard_lengths": lengths, "num_samples": sum(lengths), "source": source}
    info = read_json(str(path)) if path.exists() else {"splits": {}}
    with reading(str(path), "a list of shards"):
        found = info["splits"].get(split, about)
    if found != about:
        raise ValueError(
            f"{path} lists {split} shards of other images, or with another name or number of images; "
            "choose another folder, or delete them and the list"
        )
    info["splits"][split] = about
    write_json(info, str(path))


def write_shard(path: Path, samples: Iterator[Sample], classes: list[str]) -> None:
    """One tar file, all or nothing. The same samples give the same bytes."""
    with atomic_write(str(path)) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for sample in samples:
            about = {"label": sample.label, "class_name": classes[sample.label], **size_of(sample.content)}
            files = {sample.suffix: sample.content, "json": json.dumps(about).encode(), "cls": b"%d" % sample.label}
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{sample.key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def size_of(content: bytes) -> dict[str, int]:
    """Width and height; nothing for what is no image, which is for those to find who read it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return {"width": image.width, "height": image.height}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return {}


def key_for(wnid: str, stem: str) -> str:
    """Key of a sample: it starts with the class's id and has no dot, behind which webdataset sees a suffix."""
    stem = stem.replace(".", "_")
    return stem if stem.startswith(f"{wnid}_") else f"{wnid}_{stem}"


class FolderSource:
    """Class folders named by WordNet ids; the images of a shard are of all classes, in an order that looks random."""

    def __init__(self, folder: Path) -> None:
        folder = Path(os.path.abspath(folder))
        self.folder, self.classes = folder, class_folders(folder)
        if not self.classes:
            raise ValueError(f"no class folders in {folder}, {describe(folder)}")
        if foreign := [name for name in self.classes if not WORDNET_ID.fullmatch(name)]:
            raise ValueError(f"{folder}: class folders must be named by WordNet ids; these are not: {first(foreign)}")
        images = ClassFolders(folder.parent, folder.parent, folder.name, self.classes)
        self.items, self.fingerprint = images.items(self.classes), images.source
        for wnid, group in zip(self.classes, self.items.by_label().values()):
            keys = [key_for(wnid, Path(item.path).stem) for item in group]
            if len(set(keys)) < len(keys):
                twice = sorted(key for key in set(keys) if keys.count(key) > 1)
                raise ValueError(f"{folder / wnid} has images that differ in their suffixes alone: {first(twice)}")
        self.order = np.argsort(scrambled(len(self.items)), kind="stable")

    def __len__(self) -> int:
        return len(self.items)

    def samples(self, start: int, stop: int) -> Iterator[Sample]:
        for at in self.order[start:stop].tolist():
            item = self.items[at]
            path = self.folder.parent / item.path
            suffix = path.suffix[1:].lower()
            suffix = "jpg" if suffix == "jpeg" else suffix
            yield Sample(key_for(item.classname, path.stem), suffix, item.label, path.read_bytes())


def scrambled(count: int) -> np.ndarray:
    """A number for each position, by which to sort; the same with every version of everything (splitmix64)."""
    number = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        number = (number ^ (number >> np.uint64(shift))) * np.uint64(factor)
    return number ^ (number >> np.uint64(31))


class ParquetSource:
    """Parquet files with the columns ``image`` (of bytes and path) and ``label``, in their order.

    The class of a label is the line of ``synsets``, a file; without one, what the files' own description says if it has
    WordNet ids, else the line of timm's list of the 10,450 classes.
    """

    def __init__(self, paths: list[Path], synsets: Path | None) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise ValueError("parquet files need pyarrow: pip install 'pyarrow>=15'") from None
        self.files = []
        for path in sorted(paths):
            with reading(str(path), "a parquet file"):
                self.files.append(parquet.ParquetFile(path))
            names = self.files[-1].schema_arrow.names
            if not {"image", "label"} <= set(names):
                raise ValueError(f"{path} has no columns image and label, but {', '.join(names)}")
        self.paths = sorted(paths)
        self.classes = read_text(str(synsets)).split() if synsets else described_classes(self.files[0])
        if not self.classes:
            self.classes = timm_synsets()
            print("Note: the files do not say what their labels mean; they are read as lines of timm's list of classes")
        sizes = [f"{path.name} {path.stat().st_size}" for path in self.paths]
        self.fingerprint = fingerprint([*sizes, *self.classes])

    def __len__(self) -> int:
        return sum(file.metadata.num_rows for file in self.files)

    def samples(self, start: int, stop: int) -> Iterator[Sample]:
        first_row = 0
        for path, file in zip(self.paths, self.files):
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                here = range(max(start - first_row, 0), min(stop - first_row, rows))
                if here:
                    with reading(str(path), "a parquet file"):
                        group = file.read_row_group(number, columns=["image", "label"]).slice(here.start, len(here))
                    for row, sample in zip(here, group.to_pylist()):
                        yield self._sample(path, first_row + row, sample["image"], sample["label"])
                first_row += rows

    def _sample(self, path: Path, row: int, image: dict, label: int) -> Sample:
        if not isinstance(image, dict) or not image.get("bytes"):
            raise ValueError(f"{path}, row {row}: no bytes of an image")
        if not isinstance(label, int) or not 0 <= label < len(self.classes):
            raise ValueError(f"{path}, row {row}: label {label!r} is not one of {len(self.classes)} classes")
        content = image["bytes"]
        stem = key_of(os.path.basename(image.get("path") or "")) or f"{row:08d}"
        return Sample(key_for(self.classes[label], stem), suffix_of(content), label, content)


def described_classes(file: object) -> list[str]:
    """WordNet ids by label from the description that the Hugging Face ``datasets`` write; empty if it has none."""
    about = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get("label", {}).get("names") or []
    return names if all(WORDNET_ID.fullmatch(name) for name in names) else []


def suffix_of(content: bytes) -> str:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return "png" if content[:4] == b"\x89PNG" else "jpg"


def shard(sources: list[Path], into: Path, name: str, per_shard: int, synsets: Path | None) -> None:
    """``python -m tools.data shard``: one folder of class folders, or parquet files."""
    if per_shard < 1:
        raise ValueError(f"--per-shard must be 1 or more, got {per_shard}")
    if missing := [path for path in sources if not path.exists()]:
        raise FileNotFoundError(f"no file or folder {first(missing)}")
    files = [path for path in sources if path.suffix == ".parquet"]
    if files and len(files) == len(sources):
        source, default = ParquetSource(files, synsets), files[0].name.split("-")[0].removesuffix(".parquet")
    elif len(sources) == 1 and sources[0].is_dir():
        source, default = FolderSource(sources[0]), sources[0].name
    else:
        raise ValueError("give one folder of class folders, or .parquet files and nothing else")
    write_shards(source, into, name or default, per_shard)
