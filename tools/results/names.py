"""Data sets as papers print them."""

from __future__ import annotations

from .rows import AVERAGE

_PRINTED = {
    "imagenet": "ImageNet",
    "imagenet_21k": "ImageNet-21K",
    "caltech101": "Caltech101",
    "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars",
    "oxford_flowers": "Flowers102",
    "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft",
    "sun397": "SUN397",
    "dtd": "DTD",
    "eurosat": "EuroSAT",
    "ucf101": "UCF101",
    "imagenetv2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "xd": "Targets",  # the parts of a table of pretraining
    "dg": "Shifted sets",
    "all": "All sets",
    AVERAGE: "Average",
}


def printed(dataset: str) -> str:
    """The name in figures and LaTeX; somebody's own data set keeps its name."""
    if dataset.startswith("tiny_"):
        return dataset.removeprefix("tiny_").replace("_", " ").capitalize()
    return _PRINTED.get(dataset, dataset)
