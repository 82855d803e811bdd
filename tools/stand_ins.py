"""Weights and data sets that are not here, for plans: random weights of a backbone's shapes, photos made in memory.

Time and memory of a run depend on shapes and counts, not on what the numbers are. Nothing is downloaded or written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from clip.clip import RANDOM
from dassl.config import CfgNode, flatten_cfg, merge_from_list
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.utils import read_json
from datasets.base import MAX_VAL_SHOTS
from datasets.templates import ensemble
from tools.data.verify import FINGERPRINTS

NAME = "StandIn"
PHOTO = (500, 375)  # width and height of a photo as it is stored: ImageNet's usual size
RESIZED = {"ImageNet21K": (224, 224)}  # as published


@dataclass(frozen=True)
class Counts:
    """Sizes of a data set; without validation images of its own the test images serve as such."""

    classes: int
    images: int
    test_images: int
    val_images: int = 0

    def __str__(self) -> str:
        return f"{self.classes:,} classes, {self.images:,} images, {self.test_images:,} test images"


@dataclass(frozen=True)
class Stated:
    """What somebody says of the data set; None where they say nothing. photo: width and height of its stored images.
    forced: stand-ins are wanted even for what is here."""

    classes: int | None = None
    images: int | None = None
    test_images: int | None = None
    photo: tuple[int, int] | None = None
    forced: bool = False

    @property
    def replaces_data(self) -> bool:
        return self != NOTHING

    def counts(self, cfg: CfgNode) -> Counts:
        """With the published counts of the config's data set, at its shots, for what is not stated. ValueError naming
        what is neither stated nor known, or is no count."""
        name, shots, part = cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES
        known = read_json(str(FINGERPRINTS)).get(name, {})
        if known and part != "all":  # half of the classes, and so of the images
            half = (known["classes"] + (part == "base")) // 2
            sizes = {key: known[key] * half // known["classes"] for key in ("classes", "train", "val", "test")}
            known = sizes | {"classes": half}
        classes = known.get("classes") if self.classes is None else self.classes
        images = known.get("train") if self.images is None else self.images
        tests = known.get("test") if self.test_images is None else self.test_images
        if self.images is None and shots >= 1 and classes:
            images = min(shots * classes, images or shots * classes)
        if min(self.photo or PHOTO) < 1:
            raise ValueError(f"--photo takes a width and a height of 1 or more, but got {self.photo}")
        found = {"--classes": classes, "--images": images, "--test-images": tests}
        if missing := [option for option, count in found.items() if count is None]:
            raise ValueError(f"How large {name} is is not known: give {', '.join(missing)}")
        if wrong := [f"{option} {count}" for option, count in found.items() if count < 1]:
            raise ValueError(f"A data set has at least one of each, but got {', '.join(wrong)}")
        if (own := known.get("val", 0)) and own != known["test"]:
            return Counts(classes, images, tests, min(own, min(shots, MAX_VAL_SHOTS) * classes) if shots >= 1 else own)
        held_out = cfg.DATASET.HELD_OUT * classes
        return Counts(classes, images - (held_out if self.images is None and shots < 1 else 0), tests, held_out)


NOTHING = Stated()


class Photo(Datum):
    """An image that is decoded as a file's is, and is no file."""

    def __init__(self, impath: str, label: int, classname: str, size: tuple[int, int]) -> None:
        super().__init__(impath, label, classname=classname)
        self.size = size

    def load(self) -> Image.Image:
        return Image.open(io.BytesIO(jpeg(*self.size))).convert("RGB")


@cache
def jpeg(width: int, height: int) -> bytes:
    """A photo's file: smooth shapes and a little noise, some two bits a pixel."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = (pixels + rng.normal(0, 8, pixels.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=85)
    return file.getvalue()


@dataclass(frozen=True)
class Photos(Sequence):
    """``total`` items whose labels take turns, made when they are asked for."""

    total: int
    names: tuple[str, ...]
    size: tuple[int, int]
    split: str

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> Photo:
        if not 0 <= index < self.total:
            raise IndexError(index)
        label = index % len(self.names)
        return Photo(f"{self.split}/{index}", label, self.names[label], self.size)


@cache
def class_names(count: int) -> tuple[str, ...]:
    """So many: names of ImageNet-21K-P's classes in their order, then the same with numbers behind them."""
    folder = files("timm") / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t") for line in lines)
    synsets = (folder / "imagenet21k_miil_w21_synsets.txt").read_text(encoding="utf-8").split()
    names = [lemmas[synset].split(",")[0] for synset in synsets]
    rounds = range(-(-count // len(names)))
    return tuple(islice((f"{name} {turn}" if turn else name for turn in rounds for name in names), count))


class StandIn(DatasetBase):
    """A data set of ``counts``; a subclass has them, the original's template, and the photos' width and height."""

    counts: ClassVar[Counts]
    size: ClassVar[tuple[int, int]] = PHOTO

    def __init__(self, cfg: CfgNode) -> None:
        self.template = cfg.DATASET.TEMPLATE or self.template
        self.templates = ensemble(self.template)
        counts, names = self.counts, class_names(self.counts.classes)
        train = Photos(counts.images, names, self.size, "train")
        test = Photos(counts.test_images, names, self.size, "test")
        val = Photos(counts.val_images, names, self.size, "val") if counts.val_images else test
        super().__init__(train_x=train, val=val, test=test)


def use_data(cfg: CfgNode, stated: Stated) -> str:
    """Make a config name a data set as stated, and as published; what to tell of it."""
    name, counts = cfg.DATASET.NAME, stated.counts(cfg)
    size = stated.photo or RESIZED.get(name, PHOTO)
    template = DATASET_REGISTRY.get(name).template
    kind = type(NAME, (StandIn,), {"counts": counts, "size": size, "template": template})
    DATASET_REGISTRY.register(kind, force=True)
    merge_from_list(cfg, ["DATASET.NAME", NAME])
    return f"stands in for {name}: {counts}, photos of {size[0]} x {size[1]}"


def use_weights(cfg: CfgNode, forced: bool) -> str:
    """Make a config take random weights for backbones that are not on this disk, or all if ``forced``; what to tell.

    A start from prompts that are not there is dropped, too.
    """
    leaves, told = flatten_cfg(cfg), []
    for key, name in leaves.items():
        if not re.search(r"BACKBONE(\.NAME)?$", key) or not name:
            continue
        beside = re.sub(r"(BACKBONE|NAME)$", "PATH", key)
        path = leaves.get(beside, "")
        is_here = Path(path or name).is_file() or (name == "tiny" and not path)
        if forced or not is_here:
            merge_from_list(cfg, [key, f"{RANDOM}{name}", *([] if is_here or not path else [beside, ""])])
            told.append(name)
    if (prompts := cfg.TRAINER.INIT_PROMPTS) and not Path(prompts).exists():
        merge_from_list(cfg, ["TRAINER.INIT_PROMPTS", ""])
    return f"random, in the shapes of {', '.join(dict.fromkeys(told))}" if told else ""
