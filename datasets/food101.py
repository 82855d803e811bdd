"""Food-101 (Bossard et al., 2014)."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import ListedDataset


@DATASET_REGISTRY.register()
class Food101(ListedDataset):
    """All images, cut anew; the official lists in ``meta/`` are not used."""

    dataset_dirs = ("food-101",)
    split_file = "split_zhou_Food101.json"
    template = "a photo of {}, a type of food."
