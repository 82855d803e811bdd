"""POMP's augmentation ``randaugment2`` (arXiv:2304.04704): plain PIL operations, drawn with Python's ``random``."""

import random
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps

__all__ = ["RandAugment2"]

Operation = Callable[[Image.Image, float], Image.Image]


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, factor: kind(image).enhance(factor)


def _affine(coefficients: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
    return lambda image, v: image.transform(image.size, Image.Transform.AFFINE, coefficients(image, _random_sign(v)))


def _random_sign(v: float) -> float:
    return -v if random.random() > 0.5 else v


# (name, operation on an RGB image and a value, least value, largest value). Shears and translations are fractions of
# the image's sides, rotations degrees; the operations without a value ignore it.
OPERATIONS: list[tuple[str, Operation, float, float]] = [
    ("AutoContrast", lambda image, _: ImageOps.autocontrast(image), 0, 1),
    ("Brightness", _enhance(ImageEnhance.Brightness), 0.1, 1.9),
    ("Color", _enhance(ImageEnhance.Color), 0.1, 1.9),
    ("Contrast", _enhance(ImageEnhance.Contrast), 0.1, 1.9),
    ("Equalize", lambda image, _: ImageOps.equalize(image), 0, 1),
    ("Identity", lambda image, _: image, 0, 1),
    ("Invert", lambda image, _: ImageOps.invert(image), 0, 1),
    ("Posterize", lambda image, v: ImageOps.posterize(image, int(v)), 4, 8),
    ("Rotate", lambda image, v: image.rotate(_random_sign(v)), -30, 30),
    ("Sharpness", _enhance(ImageEnhance.Sharpness), 0.1, 1.9),
    ("ShearX", _affine(lambda image, v: (1, v, 0, 0, 1, 0)), -0.3, 0.3),
    ("ShearY", _affine(lambda image, v: (1, 0, 0, v, 1, 0)), -0.3, 0.3),
    ("Solarize", lambda image, v: ImageOps.solarize(image, v), 0, 256),
    ("TranslateX", _affine(lambda image, v: (1, 0, v * image.width, 0, 1, 0)), -0.3, 0.3),
    ("TranslateY", _affine(lambda image, v: (1, 0, 0, 0, 1, v * image.height)), -0.3, 0.3),
]


class RandAugment2:
    """``n`` operations drawn with replacement; each is applied with probability ``p`` at a uniform value."""

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        self.n = n
        self.p = p

    def __call__(self, image: Image.Image) -> Image.Image:
        for _, operation, low, high in random.choices(OPERATIONS, k=self.n):
            if random.random() > self.p:
                continue
            image = operation(image, low + random.random() * (high - low))
        return image
