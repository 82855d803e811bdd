"""ImageNet-Sketch (Wang et al., 2019): sketches of ImageNet's 1,000 classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetSketch(ImageNetShift):
    """50,889 images."""

    dataset_dirs = ("imagenet-sketch",)
    image_dirs = ("images", "sketch")
