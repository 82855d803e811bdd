"""``DATASET.HELD_OUT``: training images that serve as val where the test images would."""

from collections import Counter
from pathlib import Path

import pytest

from dassl.data.datasets import Table
from datasets.splits import Item, hold_out
from tests.datasets.layouts import make
from tests.datasets.reading import read, rows


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make("ImageNet", folder)
    return folder


def parts(root: Path, **settings: object) -> tuple[list, list, list]:
    dataset = read("ImageNet", root, **settings)
    return rows(dataset, "train_x"), rows(dataset, "val"), rows(dataset, "test")


def test_val_is_made_of_training_images(root: Path) -> None:
    everything, _, test = parts(root)
    train, val, same_test = parts(root, HELD_OUT=3)
    assert sorted(train + val) == sorted(everything) and same_test == test
    assert Counter(label for _, label, _ in val) == dict.fromkeys(range(5), 3)
    assert train == [row for row in everything if row not in val], "in their order"


def test_of_some_classes_only(root: Path) -> None:
    """The same images of these as without the limit; the others keep theirs."""
    kept, all_val, _ = parts(root, HELD_OUT=3)
    train, val, _ = parts(root, HELD_OUT=3, HELD_OUT_CLASSES=2)
    chosen = {label for _, label, _ in val}
    assert len(chosen) == 2 and val == [row for row in all_val if row[1] in chosen]
    assert sorted(train + val) == sorted(kept + all_val)
    others = [{label for _, label, _ in parts(root, HELD_OUT=3, HELD_OUT_CLASSES=2, SEED=n)[1]} for n in range(2, 6)]
    assert any(labels != chosen for labels in others)
    assert parts(root, HELD_OUT=3, HELD_OUT_CLASSES=9)[1] == all_val


def test_it_depends_on_the_seed_alone(root: Path) -> None:
    first, again, other = (parts(root, HELD_OUT=3, SEED=seed)[1] for seed in (1, 1, 2))
    assert first == again != other


def test_shots_stay_the_same_and_are_no_val_images(root: Path) -> None:
    without, _, _ = parts(root, NUM_SHOTS=4)
    train, val, _ = parts(root, NUM_SHOTS=4, HELD_OUT=3)
    assert train == without
    assert Counter(label for _, label, _ in val) == dict.fromkeys(range(5), 3)
    assert not {path for path, _, _ in val} & {path for path, _, _ in train}


def test_with_half_of_the_classes(root: Path) -> None:
    train, val, test = parts(root, HELD_OUT=1, SUBSAMPLE_CLASSES="new")
    assert (
        {label for _, label, _ in train} == {label for _, label, _ in val} == {label for _, label, _ in test} == {0, 1}
    )


def test_a_class_keeps_half_of_its_images() -> None:
    train = Table([(0, range(9)), (1, range(9, 10)), (2, range(10, 12))], lambda row, label: Item(str(row), label, ""))
    rest, held = hold_out(train, 50, seed=1)
    assert Counter(item.label for item in rest) == {0: 5, 1: 1, 2: 1}
    assert Counter(item.label for item in held) == {0: 4, 2: 1}
    picked = [train[at] for at in range(8)]
    _, held = hold_out(train, 50, seed=1, picked=picked)
    assert Counter(item.label for item in held) == {0: 1, 2: 1} and held[0].path == "8"
