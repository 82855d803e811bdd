"""ImageNet-R (Hendrycks et al., 2021): renditions (art, cartoons, toys ...) of 200 of ImageNet's classes."""

from dassl.data.datasets import DATASET_REGISTRY

from .imagenet import ImageNetShift


@DATASET_REGISTRY.register()
class ImageNetR(ImageNetShift):
    """Labels are 0..199, so that the classifier has 200 classes."""

    dataset_dirs = ("imagenet-rendition",)
    image_dirs = ("imagenet-r",)
