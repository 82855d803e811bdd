"""The embedded data sets: pictures are functions of their names, classes and splits are what the protocols need."""

import random
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

from configs.worlds import stems
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase
from datasets import EMBEDDED
from datasets.embedded import (
    DEVELOPMENT,
    FORGOTTEN,
    REAL,
    SHIFTED,
    SOURCE,
    TARGETS,
    TinyCounts,
    TinyDigits,
    TinyPhotos,
    TinyShapes,
    TinySource,
)
from datasets.embedded.render import COLOURS, DIGITS, SHAPES, STYLES, TEXTURES, Scene, Thing, render
from datasets.embedded.sets import picture
from tools import protocols

CONFIGS = Path(__file__).parents[2] / "configs" / "datasets"


def build(kind: type[DatasetBase], shots: int = -1, classes: str = "all", seed: int = 1) -> DatasetBase:
    cfg = get_cfg_default()
    cfg.DATASET.NUM_SHOTS, cfg.DATASET.SUBSAMPLE_CLASSES, cfg.SEED = shots, classes, seed
    return kind(cfg)


@pytest.fixture(params=EMBEDDED, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[DatasetBase]:
    return request.param


def test_is_registered_and_has_a_config(kind: type[DatasetBase]) -> None:
    assert DATASET_REGISTRY.get(kind.__name__) is kind
    stems = {path.stem: path.read_text() for path in CONFIGS.glob("tiny_*.yaml")}
    assert [stem for stem, text in stems.items() if f'"{kind.__name__}"' in text] != []
    assert len(stems) == len(EMBEDDED)


def test_splits_are_disjoint_and_cover_every_class(kind: type[DatasetBase]) -> None:
    data = build(kind)
    names = [item.impath for split in (data.train_x, data.val, data.test) for item in split or ()]
    assert len(names) == len(set(names)) or kind in SHIFTED
    assert {item.label for item in data.test} == set(range(data.num_classes))
    assert len(set(data.classnames)) == data.num_classes
    assert "{}" in data.template


def test_class_counts() -> None:
    counts = {kind.__name__: build(kind).num_classes for kind in EMBEDDED if kind not in SHIFTED}
    assert counts == {
        "TinySource": len(COLOURS) * len(TEXTURES) * len(SHAPES),
        "TinyShapes": 80,
        "TinyTextures": 48,
        "TinyPrint": 10,
        "TinyCounts": 64,
        "TinyScenes": 60,
        "TinyDigits": 10,
        "TinyPhotos": 480,
        "TinyDevSurfaces": 60,
        "TinyDevGroups": 80,
    }


def stem(kind: type[DatasetBase]) -> str:
    """Name of the config of a data set."""
    return next(path.stem for path in CONFIGS.glob("tiny_*.yaml") if f'"{kind.__name__}"' in path.read_text())


def test_protocols_know_the_groups_and_no_table_shows_a_development_set() -> None:
    world = protocols.EMBEDDED
    assert stem(SOURCE) == world.source == world.pretraining
    assert {*map(stem, TARGETS)} == {*world.targets} and {*map(stem, (*REAL, *FORGOTTEN))} == {*world.others}
    assert {*map(stem, SHIFTED)} == {*world.shifts} and {*map(stem, DEVELOPMENT)} == {*world.development}
    assert {*map(stem, EMBEDDED)} == {name for name in stems().values() if name in world}
    for path in (CONFIGS.parent / "benchmarks").glob("embedded_*.yaml"):
        content = yaml.safe_load(path.read_text())
        methods = [
            method for table in (content if isinstance(content, list) else [content]) for method in table["methods"]
        ]
        if path.stem.startswith("embedded_recipe_"):  # settings are chosen there, on validation images alone
            assert all(method.get("opts", {}).get("TEST.SPLIT") == "val" for method in methods), path
        else:
            assert not any(stem(kind) in path.read_text() for kind in DEVELOPMENT), path


def pictures(kind: type[DatasetBase]) -> list[tuple[str, bytes]]:
    """Split, class and index, and content, of all items of every sixteenth class, or of all digits."""
    data = build(kind)
    items = data.test if kind in SHIFTED else [*data.train_x, *data.val, *data.test]
    some = {*sorted(data.classnames)[::16]} if kind is not TinyDigits else {*data.classnames}
    return [(item.impath, np.asarray(item.load()).tobytes()) for item in items if item.classname in some]


def test_no_picture_is_there_twice() -> None:
    """Neither in two splits nor in two data sets; the same classes of those that share their names are looked at."""
    found = [picture for kind in EMBEDDED for picture in pictures(kind)]
    names: dict[bytes, str] = {}
    for name, content in found:
        assert names.setdefault(content, name) == name, f"{name} is {names[content]}"
    assert len(names) == len(found) > 5000


def test_pictures_are_rgb_and_the_same_each_time(kind: type[DatasetBase]) -> None:
    items = build(kind).test[::97]
    first = [np.asarray(item.load()) for item in items]
    picture.cache_clear()
    again = [np.asarray(item.load()) for item in build(kind).test[::97]]
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in first)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({image.tobytes() for image in first}) == len(first)


# Mean intensity of every 97th test picture. A change here moves every result on the embedded world.
MEANS = {
    "TinySource": 145.10,
    "TinyShapes": 61.08,
    "TinyTextures": 157.53,
    "TinyPrint": 161.77,
    "TinyCounts": 153.45,
    "TinyScenes": 187.42,
    "TinyDigits": 81.01,
    "TinyPhotos": 107.29,
    "TinySourceNoise": 151.70,
    "TinySourceSketch": 57.26,
    "TinySourceTint": 125.61,
    "TinySourceWarp": 141.94,
    "TinyDevSurfaces": 160.12,
    "TinyDevGroups": 140.14,
}


def test_pictures_have_not_changed(kind: type[DatasetBase]) -> None:
    mean = np.mean([np.asarray(item.load()) for item in build(kind).test[::97]])
    assert mean == pytest.approx(MEANS[kind.__name__], abs=0.01)


def test_pictures_show_their_colour() -> None:
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        scene = Scene((Thing("square", colour, radius=2),), noise=0)
        seen = np.mean([render(scene, rng).mean((0, 1)) for _ in range(40)], axis=0) / 255
        nearest = min(
            COLOURS, key=lambda word: np.abs(seen / seen.max() - np.array(COLOURS[word]) / max(COLOURS[word])).sum()
        )
        assert nearest == colour, (colour, value, seen)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [*SHAPES, *DIGITS])
def test_shapes_leave_the_border_free_and_are_seen(shape: str, style: str) -> None:
    scene = Scene((Thing(shape, "red", radius=0.8),), style, noise=0)
    empty = Scene((), style, noise=0)
    difference = np.abs(render(scene, np.random.default_rng(5)).astype(int) - render(empty, np.random.default_rng(5)))
    if style != "photo":  # its light is drawn after the things
        assert difference[[0, -1]].max() <= 1
    assert (difference.max(-1) > 20).sum() > 20


def test_few_shots_and_halves_follow_the_protocol() -> None:
    everything, base, new = (build(TinyShapes, 4, classes) for classes in ("all", "base", "new"))
    assert len(everything.train_x) == 80 * 4
    assert len(everything.val) == 80 * 4
    assert base.classnames + new.classnames == everything.classnames
    picked = {item.impath for item in everything.train_x}
    assert {item.impath for item in [*base.train_x, *new.train_x]} == picked
    assert len(base.test) + len(new.test) == len(everything.test)
    assert sorted({item.label for item in new.test}) == list(range(40))


def test_few_shots_depend_on_the_seed_alone() -> None:
    def picks(seed: int) -> list[str]:
        return [item.impath for item in build(TinyCounts, 2, seed=seed).train_x]

    first = picks(1)
    random.random()
    assert picks(1) == first
    assert picks(2) != first


def test_halves_share_their_words() -> None:
    for kind in EMBEDDED:
        if kind in SHIFTED or all(len(words) == 1 for words in kind.classes()):
            continue
        base, new = (
            {word for name in build(kind, 1, half).classnames for word in name.split()} for half in ("base", "new")
        )
        assert base == new


def test_digits_are_scikit_learns() -> None:
    data = build(TinyDigits)
    sizes = [len(data.train_x), len(data.val), len(data.test)]
    assert sum(sizes) == len(load_digits().target) == 1797
    assert np.allclose(np.array(sizes) / 1797, [0.5, 0.2, 0.3], atol=0.01)
    item = data.test[100]
    source = load_digits().images[int(item.impath[-4:])]
    small = np.asarray(item.load()).mean(-1).reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(small.ravel(), source.ravel())[0, 1] > 0.97
    assert DIGITS[load_digits().target[int(item.impath[-4:])]] == item.classname


def test_photos_are_of_the_sources_classes_but_not_its_drawings() -> None:
    photos, drawings = build(TinyPhotos), build(TinySource)
    assert photos.classnames == drawings.classnames and photos.template == drawings.template
    same = [np.array_equal(a.load(), b.load()) for a, b in zip(photos.test[::97], drawings.test[::97], strict=True)]
    assert not any(same)


def test_shifted_sets_are_test_only() -> None:
    source = build(TinySource)
    for kind in SHIFTED:
        data = build(kind, 16, "base")
        assert data.classnames == source.classnames
        assert data.train_x == data.test
        assert not data.val
