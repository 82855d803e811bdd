"""ImageNet-A (Hendrycks et al., 2021): natural images that ResNets get wrong, 200 of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetA(ImageNetShift):
    """Labels are 0..199, so that the classifier has 200 classes."""

    dataset_dirs = ("imagenet-adversarial",)
    image_dirs = ("imagenet-a",)
