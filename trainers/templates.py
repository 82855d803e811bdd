"""Hand-written templates, for zero-shot CLIP and as teachers. A data set brings its own as attribute ``template``."""

from __future__ import annotations

from open_clip import SIMPLE_IMAGENET_TEMPLATES

from dassl.config import CfgNode
from dassl.data.datasets import DatasetBase

DEFAULT = "a photo of a {}."


def dataset_template(cfg: CfgNode, dataset: DatasetBase) -> str:
    """``DATASET.TEMPLATE`` if set, else the data set's own. ValueError without the place for the class name."""
    template = cfg.DATASET.TEMPLATE or getattr(dataset, "template", DEFAULT)
    if "{}" not in template:
        raise ValueError(f"DATASET.TEMPLATE needs the place of the class name, {{}}, but is {template!r}")
    return template


def ensemble(cfg: CfgNode, dataset: DatasetBase) -> list[str]:
    """The seven templates that CLIP's authors selected for ImageNet; other data sets add their own."""
    seven = [template("{}") for template in SIMPLE_IMAGENET_TEMPLATES]
    return seven if cfg.DATASET.NAME == "ImageNet" else [*seven, dataset_template(cfg, dataset)]
