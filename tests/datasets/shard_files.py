"""Shards in the layout of the published ones, made of the miniature of ImageNet-21K."""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

Sample = dict[str, bytes]  # content by suffix
BUILT_AT = 1_700_000_000.25  # webdataset writes a time with a fraction, which takes a header of its own


def sample(wnid: str, image: bytes, label: int = 7, suffix: str = "jpg") -> Sample:
    about = {"label": label, "class_name": wnid, "width": 12, "height": 8}
    return {suffix: image, "json": json.dumps(about).encode(), "cls": str(label).encode()}


def write_shard(path: Path, samples: Sequence[tuple[str, Sample]], mtime: float = BUILT_AT) -> None:
    """``samples``: key and files, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples:
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size, member.mtime = len(content), mtime
                tar.addfile(member, io.BytesIO(content))


def samples_of(folder: Path) -> list[tuple[str, Sample]]:
    """The images of class folders, whose names start with the WordNet id, out of order."""
    paths = sorted(folder.glob("*/*"))
    random.Random(0).shuffle(paths)
    return [(path.stem, sample(path.parent.name, path.read_bytes())) for path in paths]


def to_shards(root: Path, count: int = 3, parts: Sequence[str] = ("train",)) -> Path:
    """Replace folders of the miniature by ``count`` shards each; the folder of the shards."""
    folder = root / "imagenet21k_resized"
    for part in parts:
        samples = samples_of(folder / f"imagenet21k_{part}")
        name = {"train": "imagenet_w21-train", "val": "imagenet_w21-validation"}[part]
        for i in range(count):
            write_shard(folder / f"shards/{name}-{i:04d}.tar", samples[i::count])
        shutil.rmtree(folder / f"imagenet21k_{part}")
    return folder / "shards"
