"""Describable Textures (Cimpoi et al., 2014): 47 textures."""

from dassl.data.datasets import DATASET_REGISTRY

from .base import ListedDataset


@DATASET_REGISTRY.register()
class DescribableTextures(ListedDataset):
    """All images, cut anew; the official splits in ``labels/`` are not used."""

    dataset_dirs = ("dtd",)
    image_dirs = ("images", "dtd/images")
    split_file = "split_zhou_DescribableTextures.json"
    template = "{} texture."
