"""``DATASET.NAME`` to a data set."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability, log

if TYPE_CHECKING:
    from dassl.data.datasets.base_dataset import DatasetBase

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> "DatasetBase":
    """The data set that ``cfg.DATASET.NAME`` names; ``ValueError`` with the nearest name if there is none."""
    check_availability(cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    if cfg.VERBOSE:
        log.info(f"Loading dataset: {cfg.DATASET.NAME}")
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
