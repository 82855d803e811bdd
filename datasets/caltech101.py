"""Caltech101 (Fei-Fei et al., 2004): objects; 100 classes, without the background and the second faces folder."""

from typing import ClassVar

from dassl.data.datasets import DATASET_REGISTRY

from .base import ListedDataset


@DATASET_REGISTRY.register()
class Caltech101(ListedDataset):
    """Labels follow the folder names, capitals first; four class names are not their folder's."""

    dataset_dirs = ("caltech-101", "caltech101")
    image_dirs = ("101_ObjectCategories",)
    split_file = "split_zhou_Caltech101.json"
    ignored_folders = ("BACKGROUND_Google", "Faces_easy")
    renamed_folders: ClassVar[dict[str, str]] = {
        "airplanes": "airplane",
        "Faces": "face",
        "Leopards": "leopard",
        "Motorbikes": "motorbike",
    }
