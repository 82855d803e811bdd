"""The embedded data sets: they render themselves, or come with scikit-learn, and need no file.

A data set says which classes it has and what scene shows one of them; a picture is a pure function of (data set,
split, class, index). Few shots, base and new classes work as for any other data set.
"""

import random
from collections.abc import Callable
from functools import cache, lru_cache, partial
from hashlib import blake2b
from itertools import chain, count, permutations, product
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from dassl.data.datasets import DATASET_REGISTRY, Datum

from ..base import ImageDataset
from ..splits import Item, Split
from .render import COLOURS, DIGITS, DRAWN, SHAPES, SIZE, TEXTURES, Array, Scene, Thing, render, to_pixels
from .scenes import COUNTS, PLURALS, RELATIONS, group, numeral, pair, pick, single, surface

Words = tuple[str, ...]


def shuffled(classes: list[Words]) -> list[Words]:
    """The same order on every machine, in which either half of the classes has all the words."""
    middle = (len(classes) + 1) // 2
    orders = (random.Random(seed).sample(classes, len(classes)) for seed in count())
    return next(order for order in orders if {*chain(*order[:middle])} == {*chain(*order[middle:])})


def seeded(key: str) -> np.random.Generator:
    """A generator that depends on the key alone."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")))


@lru_cache(maxsize=65536)  # 3 kB each
def picture(dataset: type["EmbeddedDataset"], words: Words, key: str) -> Array:
    """(H, W, 3) pixels of one item."""
    return dataset.pixels(words, seeded(key))


def drawn(things: tuple[Thing, ...], rng: np.random.Generator, *styles: str) -> Scene:
    """The things in one of these styles."""
    return Scene(things, styles[rng.integers(len(styles))], noise=rng.uniform(0.03, 0.1))


def singular(plural: str) -> str:
    """The shape of a plural."""
    return next(shape for shape in SHAPES if PLURALS[shape] == plural)


class RenderedDatum(Datum):
    """An item without a file: ``impath`` is only its name, ``draw`` makes its (H, W, 3) pixels."""

    def __init__(self, impath: str, label: int, classname: str, draw: Callable[[], Array]) -> None:
        super().__init__(impath=impath, label=label, classname=classname)
        self.draw = draw

    def load(self) -> Image.Image:
        return Image.fromarray(self.draw())


class EmbeddedDataset(ImageDataset):
    """Base of the embedded sets; a subclass gives ``classes`` and ``scene`` (or ``pixels``)."""

    per_class: ClassVar[dict[str, int]] = {"train": 16, "val": 4, "test": 20}
    seeds: ClassVar[str] = ""  # what the seeds of its pictures begin with; empty: the class's own name

    def __init__(self, cfg: CfgNode) -> None:
        train, val, test = (self.rows(split) for split in Split._fields)
        split = Split(test, [], test) if self.test_only else Split(train, val, test)
        if cfg.DATASET.NUM_SHOTS >= 1 and not self.test_only:
            split = Split(*self.draw_fewshot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED), test)
        super().__init__(cfg, Path(type(self).__name__), split, () if self.test_only else train)

    @classmethod
    def classes(cls) -> list[Words]:
        """The words of each class, in label order; joined by spaces they are its name."""
        raise NotImplementedError

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        """A random scene that shows the class."""
        raise NotImplementedError

    @classmethod
    def pixels(cls, words: Words, rng: np.random.Generator) -> Array:
        """(H, W, 3) bytes of one random picture of the class."""
        return render(cls.scene(words, rng), rng)

    @classmethod
    def rows(cls, split: str) -> list[Item]:
        """All pictures of a split, class by class."""
        names = [" ".join(words) for words in cls.classes()]
        return [
            Item(f"{split}/{name}/{index:04d}", label, name)
            for label, name in enumerate(names)
            for index in range(cls.per_class[split])
        ]

    def _datum(self, item: Item) -> Datum:
        draw = partial(picture, type(self), self.classes()[item.label], f"{self.seeds or self.image_dir}/{item.path}")
        return RenderedDatum(f"{self.image_dir}/{item.path}", item.label, item.classname, draw)


@DATASET_REGISTRY.register()
class TinySource(EmbeddedDataset):
    """Colour x texture x shape in all drawn styles: the broad set that prompts are pretrained on (480 classes)."""

    per_class: ClassVar[dict[str, int]] = {"train": 8, "val": 4, "test": 10}
    seeds = "Drawings"  # TinyPhotos has those of this class's name

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return shuffled(list(product(COLOURS, TEXTURES, SHAPES)))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return drawn((single(*words, rng),), rng, *DRAWN)


@DATASET_REGISTRY.register()
class TinyPhotos(EmbeddedDataset):
    """The source's classes as the tiny CLIP knows them: what prompts forget shows here (480 classes)."""

    per_class: ClassVar[dict[str, int]] = {"train": 20, "val": 4, "test": 10}
    seeds = "TinySource"  # its pictures were the source once, and stay the same

    @classmethod
    def classes(cls) -> list[Words]:
        return TinySource.classes()

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return Scene((single(*words, rng),), noise=rng.uniform(0.03, 0.1))


@DATASET_REGISTRY.register()
class TinyShapes(EmbeddedDataset):
    """Coloured shapes on a board (80 classes)."""

    template = "a drawing of a {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return shuffled(list(product(COLOURS, SHAPES)))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        colour, shape = words
        return drawn((single(colour, "solid", shape, rng),), rng, "board")


@DATASET_REGISTRY.register()
class TinyTextures(EmbeddedDataset):
    """Textured shapes of any colour, on craft paper and in pencil (48 classes)."""

    template = "a drawing of a {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return shuffled(list(product(TEXTURES, SHAPES)))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return drawn((single(pick(rng, COLOURS), *words, rng),), rng, "craft", "pencil")


@DATASET_REGISTRY.register()
class TinyPrint(EmbeddedDataset):
    """Printed digits of any colour, on a board and in pen (10 classes)."""

    template = "the digit {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return [(digit,) for digit in DIGITS]

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return drawn((numeral(pick(rng, COLOURS), *words, rng),), rng, "board", "pen")


@DATASET_REGISTRY.register()
class TinyCounts(EmbeddedDataset):
    """Two to five equal things, in pen and on craft paper (64 classes)."""

    template = "there are {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        colours, shapes = ("red", "yellow", "green", "blue"), ("circle", "square", "triangle", "star")
        return shuffled(list(product(COUNTS, colours, (PLURALS[shape] for shape in shapes))))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        count, colour, plural = words
        return drawn(group(COUNTS[count], colour, singular(plural), rng), rng, "pen", "craft")


@DATASET_REGISTRY.register()
class TinyScenes(EmbeddedDataset):
    """Two things and their relation, on a board and in pencil: "circle above a square" (60 classes)."""

    template = "a drawing of a {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        pairs = permutations(("circle", "square", "triangle", "star", "cross"), 2)
        return shuffled([(first, relation, "a", second) for (first, second), relation in product(pairs, RELATIONS)])

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        first, relation, _, second = words
        colours = tuple(rng.permutation(list(COLOURS))[:2])
        return drawn(pair(first, relation, second, colours, rng), rng, "board", "pencil")


@DATASET_REGISTRY.register()
class TinyDevSurfaces(EmbeddedDataset):
    """Textures that fill the picture, on craft paper and in pencil (60 classes)."""

    per_class: ClassVar[dict[str, int]] = {"train": 16, "val": 16, "test": 20}
    template = "{} texture."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return shuffled(list(product(COLOURS, TEXTURES)))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return drawn((surface(*words),), rng, "craft", "pencil")


@DATASET_REGISTRY.register()
class TinyDevGroups(EmbeddedDataset):
    """Several equal things of any number, on a board and in pencil (80 classes)."""

    per_class: ClassVar[dict[str, int]] = {"train": 16, "val": 16, "test": 20}
    template = "there are {}."

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return shuffled(list(product(COLOURS, PLURALS.values())))

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        colour, plural = words
        number = rng.choice(list(COUNTS.values()))
        return drawn(group(number, colour, singular(plural), rng), rng, "board", "pencil")


@DATASET_REGISTRY.register()
class TinyDigits(EmbeddedDataset):
    """Real handwritten digits: the UCI test set in scikit-learn, 8 x 8 pixels enlarged; of each ten, 5 / 2 / 3."""

    template = "a photo of the digit {}."
    folds: ClassVar[dict[str, tuple[int, ...]]] = {"train": (0, 2, 4, 6, 8), "val": (1, 5), "test": (3, 7, 9)}

    @classmethod
    @cache
    def classes(cls) -> list[Words]:
        return [(digit,) for digit in DIGITS]

    @classmethod
    def rows(cls, split: str) -> list[Item]:
        targets = handwritten()[1]
        return [
            Item(f"{split}/{digit}/{index:04d}", label, digit)
            for label, digit in enumerate(DIGITS)
            for place, index in enumerate(np.flatnonzero(targets == label))
            if place % 10 in cls.folds[split]
        ]

    def _datum(self, item: Item) -> Datum:
        draw = partial(enlarged, int(item.path[-4:]))
        return RenderedDatum(f"{self.image_dir}/{item.path}", item.label, item.classname, draw)


@lru_cache(maxsize=1)
def handwritten() -> tuple[Array, Array]:
    """scikit-learn's (1797, 8, 8) images, values 0 to 16, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


@lru_cache(maxsize=2048)
def enlarged(index: int) -> Array:
    """(H, W, 3) pixels of a handwritten digit, light on dark."""
    small = Image.fromarray(to_pixels(handwritten()[0][index] / 16))
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB"))


class ShiftedSource(TinySource):
    """The source's classes under another appearance; as in this family, the train list is the test list."""

    test_only = True
    seeds = ""


@DATASET_REGISTRY.register()
class TinySourceNoise(ShiftedSource):
    """Out of focus and noisy."""

    @classmethod
    def pixels(cls, words: Words, rng: np.random.Generator) -> Array:
        image = super().pixels(words, rng) / 255
        rows = (np.roll(image, 1, 0) + image + np.roll(image, -1, 0)) / 3
        blurred = (np.roll(rows, 1, 1) + rows + np.roll(rows, -1, 1)) / 3
        return to_pixels(blurred + rng.uniform(0.05, 0.2) * rng.standard_normal(image.shape))


@DATASET_REGISTRY.register()
class TinySourceSketch(ShiftedSource):
    """In chalk, with hardly any paint."""

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        return drawn((single(*words, rng),), rng, "chalk")


@DATASET_REGISTRY.register()
class TinySourceTint(ShiftedSource):
    """Under dim, coloured light."""

    @classmethod
    def pixels(cls, words: Words, rng: np.random.Generator) -> Array:
        image = super().pixels(words, rng) / 255
        return to_pixels(image * rng.uniform(0.5, 1.0, 3) + rng.uniform(0, 0.15, 3))


@DATASET_REGISTRY.register()
class TinySourceWarp(ShiftedSource):
    """Small, stretched, turned far, and partly hidden by a bar."""

    @classmethod
    def scene(cls, words: Words, rng: np.random.Generator) -> Scene:
        colour, texture, shape = words
        x, y = rng.uniform(-0.25, 0.25, 2)
        thing = Thing(
            shape, colour, texture, x, y, rng.uniform(0.5, 0.75), rng.uniform(-0.7, 0.7), rng.uniform(0.8, 1.25)
        )
        return drawn((thing,), rng, *DRAWN)

    @classmethod
    def pixels(cls, words: Words, rng: np.random.Generator) -> Array:
        image = super().pixels(words, rng)
        start, width = rng.integers(SIZE - 6), rng.integers(3, 7)
        image[:, start : start + width] = rng.integers(256, size=3)
        return image
