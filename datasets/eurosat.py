"""EuroSAT (Helber et al., 2019): land use in RGB satellite images."""

from typing import ClassVar

from dassl.data.datasets import DATASET_REGISTRY

from .base import ListedDataset


@DATASET_REGISTRY.register()
class EuroSAT(ListedDataset):
    """All images, cut anew; most folder names are spelled out."""

    dataset_dirs = ("eurosat",)
    image_dirs = ("2750",)
    split_file = "split_zhou_EuroSAT.json"
    template = "a centered satellite photo of {}."
    renamed_folders: ClassVar[dict[str, str]] = {
        "AnnualCrop": "Annual Crop Land",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "SeaLake": "Sea or Lake",
    }
