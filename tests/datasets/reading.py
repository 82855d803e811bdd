"""What the tests of the readers share."""

from pathlib import Path

import datasets  # noqa: F401  (registers the readers)
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase


def read(name: str, root: Path | str = "", **settings: object) -> DatasetBase:
    """Construct a data set; ``settings`` are SEED (default 1) and keys below ``cfg.DATASET``."""
    cfg = get_cfg_default()
    cfg.SEED = settings.pop("SEED", 1)
    for key, value in {"NAME": name, "ROOT": str(root), **settings}.items():
        cfg.DATASET[key] = value if isinstance(value, int) else str(value)
    return DATASET_REGISTRY.get(name)(cfg)


def rows(dataset: DatasetBase, part: str) -> list[list]:
    """``[path below the image folder, label, class name]`` of the list ``part``."""
    start = len(str(dataset.image_dir)) + 1
    return [[datum.impath[start:], datum.label, datum.classname] for datum in getattr(dataset, part)]
