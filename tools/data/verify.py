"""Compare a data set on disk with what is known of the one that published numbers use (``fingerprints.json``)."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils import sha256_of
from datasets.base import ImageDataset, PublishedDataset
from datasets.fewshot import fingerprint
from datasets.splits import Item, Split

FINGERPRINTS = Path(__file__).with_name("fingerprints.json")
DIGITS = 12  # of a few-shot fingerprint


class Check(NamedTuple):
    """One comparison; ``found == expected`` means that it passed."""

    what: str
    found: str
    expected: str

    @property
    def passed(self) -> bool:
        return self.found == self.expected


def verify(name: str, root: str) -> list[Check]:
    """Read the data set ``name`` below ``root`` and compare its sizes, split file, class names and few-shot picks.

    Raises what the reader raises: ``FileNotFoundError`` with the number of missing images, for one.
    """
    cfg = get_cfg_default()
    cfg.DATASET.NAME, cfg.DATASET.ROOT = name, root
    known = json.loads(FINGERPRINTS.read_text(encoding="utf-8"))[name]
    return compare(DATASET_REGISTRY.get(name)(cfg), known)


def compare(dataset: ImageDataset, known: dict) -> list[Check]:
    """Of what is ``known`` of a data set: an entry of ``fingerprints.json``, or one like it."""
    return [*check_lists(dataset, known), *check_fewshot(dataset, known.get("fewshot", {}))]


def check_lists(dataset: ImageDataset, known: dict) -> list[Check]:
    """Number of classes and images, the class names, the template, the split file."""
    found = {
        "classes": dataset.num_classes,
        "train": len(dataset.train_x),
        "val": len(dataset.val or ()),
        "test": len(dataset.test),
        "classnames_sha256": fingerprint(dataset.classnames),
        "template": dataset.template,
    }
    if "split_sha256" in known:
        split_file = dataset.dataset_dir / dataset.split_file
        found["split_sha256"] = sha256_of(str(split_file)) if split_file.is_file() else "no split file"
    return [Check(what, str(found[what]), str(known[what])) for what in found if what in known]


def check_fewshot(dataset: PublishedDataset, known: dict[str, list[list[str]]]) -> list[Check]:
    """Train and val picks for every recorded number of shots (the keys) and seed (1, 2, 3)."""
    if not known:
        return []
    full = Split(*(items_of(dataset, part) for part in (dataset.train_x, dataset.val, dataset.test)))
    checks = []
    for shots, seeds in known.items():
        for seed, expected in enumerate(seeds, 1):
            with contextlib.redirect_stdout(io.StringIO()):
                picks = dataset.draw_fewshot(full, int(shots), seed)
            found = [fingerprint(item.path for item in items)[:DIGITS] for items in picks]
            checks.append(Check(f"{shots} shots, seed {seed}", " / ".join(found), " / ".join(expected)))
    return checks


def items_of(dataset: PublishedDataset, data: list[Datum]) -> list[Item]:
    """Items of a list of Datum, paths relative to the image folder again."""
    start = len(str(dataset.image_dir)) + 1
    return [Item(datum.impath[start:].replace("\\", "/"), datum.label, datum.classname) for datum in data]
