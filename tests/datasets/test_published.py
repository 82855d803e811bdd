"""The readers of the sixteen benchmark data sets, on miniatures in their real layouts."""

import random
import shutil
from pathlib import Path

import pytest

from tests.datasets.layouts import MAKERS, Layout, make, make_all
from tests.datasets.reading import read, rows

SHIFTED = ["ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"]
WORDNET = ["ImageNet", "ImageNet21K"]
FALLBACK = sorted(MAKERS.keys() - {*SHIFTED, *WORDNET, "FGVCAircraft"})


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Layout]]:
    root = tmp_path_factory.mktemp("data")
    return root, make_all(root)


@pytest.mark.parametrize("name", MAKERS)
def test_labels_names_and_splits(name: str, miniatures: tuple[Path, dict[str, Layout]]) -> None:
    root, layouts = miniatures
    dataset, layout = read(name, root), layouts[name]
    assert dataset.num_classes == len(layout.classnames)
    assert dataset.classnames == layout.classnames
    for part, key in (("train_x", "train"), ("val", "val"), ("test", "test")):
        assert rows(dataset, part) == getattr(layout, key)
    assert dataset.test[0].load().size == (12, 8)


@pytest.mark.parametrize("name", FALLBACK)
def test_split_cut_when_the_split_file_is_missing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    layout = make(name, tmp_path, split_file=False)
    dataset, again = read(name, tmp_path, SEED=1), read(name, tmp_path, SEED=2)
    assert "is missing, so a split is cut here" in capsys.readouterr().out
    assert dataset.classnames == layout.classnames
    everything = sorted([*layout.train, *layout.val, *layout.test])
    assert sorted(rows(dataset, "train_x") + rows(dataset, "val") + rows(dataset, "test")) == everything
    for part, key in (("train_x", "train"), ("val", "val"), ("test", "test")):
        assert rows(dataset, part) == rows(again, part), "the cut must not depend on the run's seed"
        assert sorted(row[1] for row in rows(dataset, part)) == sorted(row[1] for row in getattr(layout, key))
    if name in ("OxfordPets", "StanfordCars", "SUN397", "UCF101"):
        assert sorted(rows(dataset, "test")) == sorted(layout.test), "the official test images"
    assert not list(tmp_path.glob("*/split_zhou*")), "a split of our own must not pass for the authors'"


def test_flowers_are_cut_in_order_of_first_appearance(tmp_path: Path) -> None:
    make("OxfordFlowers", tmp_path, split_file=False)
    assert [label for _, label, _ in rows(read("OxfordFlowers", tmp_path), "train_x")] == [2] * 5 + [0] * 5 + [1] * 5


def independent_picks(layout_rows: list[list], shots: int) -> list[list]:
    """The procedure in other words: group by first appearance, then sample positions from the global generator."""
    picked, labels = [], list(dict.fromkeys(row[1] for row in layout_rows))
    for label in labels:
        group = [row for row in layout_rows if row[1] == label]
        enough = len(group) >= shots
        picked += [group[i] for i in random.sample(range(len(group)), shots)] if enough else group
    return picked


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - set(SHIFTED)))
@pytest.mark.parametrize("shots", [1, 4, 16])
def test_fewshot_picks(name: str, shots: int, miniatures: tuple[Path, dict[str, Layout]]) -> None:
    root, layouts = miniatures
    layout = layouts[name]
    random.seed(3)
    train = independent_picks(layout.train, shots)
    val = layout.val if name in WORDNET else independent_picks(layout.val, min(shots, 4))
    for _ in ("drawn", "kept"):
        dataset = read(name, root, SEED=3, NUM_SHOTS=shots)
        assert (rows(dataset, "train_x"), rows(dataset, "val")) == (train, val)
        assert rows(dataset, "test") == layout.test


@pytest.mark.parametrize("name", SHIFTED)
def test_shots_and_base_new_do_not_apply_to_shifted_test_sets(
    name: str, miniatures: tuple[Path, dict[str, Layout]]
) -> None:
    root, layouts = miniatures
    dataset = read(name, root, NUM_SHOTS=1, SUBSAMPLE_CLASSES="base")
    assert rows(dataset, "test") == rows(dataset, "train_x") == layouts[name].test
    assert not dataset.val
    assert not (dataset.dataset_dir / "split_fewshot").exists()


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - set(SHIFTED)))
def test_base_and_new_classes(name: str, miniatures: tuple[Path, dict[str, Layout]]) -> None:
    root, layouts = miniatures
    layout = layouts[name]
    middle = (len(layout.classnames) + 1) // 2
    full = read(name, root, NUM_SHOTS=2)
    for group, labels in (("base", range(middle)), ("new", range(middle, len(layout.classnames)))):
        dataset = read(name, root, NUM_SHOTS=2, SUBSAMPLE_CLASSES=group)
        assert dataset.classnames == [layout.classnames[label] for label in labels]
        for part in ("train_x", "val", "test"):
            expected = [[path, label - labels[0], cname] for path, label, cname in rows(full, part) if label in labels]
            assert rows(dataset, part) == expected


def test_imagenet_val_is_test(miniatures: tuple[Path, dict[str, Layout]]) -> None:
    dataset = read("ImageNet", miniatures[0], NUM_SHOTS=1, SUBSAMPLE_CLASSES="new")
    assert dataset.val is dataset.test


def test_templates(miniatures: tuple[Path, dict[str, Layout]]) -> None:
    expected = {
        "OxfordPets": "a photo of a {}, a type of pet.",
        "OxfordFlowers": "a photo of a {}, a type of flower.",
        "FGVCAircraft": "a photo of a {}, a type of aircraft.",
        "DescribableTextures": "{} texture.",
        "EuroSAT": "a centered satellite photo of {}.",
        "Food101": "a photo of {}, a type of food.",
        "UCF101": "a photo of a person doing {}.",
    }
    readers = {name: read(name, miniatures[0]) for name in MAKERS}
    assert {n: r.template for n, r in readers.items()} == {n: expected.get(n, "a photo of a {}.") for n in MAKERS}
    assert len(readers["ImageNet"].templates) == 7
    assert readers["DescribableTextures"].templates == [*readers["ImageNet"].templates, "{} texture."]
    assert read("EuroSAT", miniatures[0], TEMPLATE="{} from above").template == "{} from above"


TORCHVISION = {  # what moves where, compared with the family's layout
    "Caltech101": {"caltech-101": "caltech101"},
    "OxfordPets": {"oxford_pets": "oxford-iiit-pet"},
    "OxfordFlowers": {"oxford_flowers": "flowers-102"},
    "FGVCAircraft": {"fgvc_aircraft": "fgvc-aircraft-2013b/data"},
    "SUN397": {"sun397/SUN397": "SUN397", "sun397/split_zhou_SUN397.json": "SUN397/split_zhou_SUN397.json"},
    "DescribableTextures": {"dtd": "dtd", "dtd/images": "dtd/dtd/images"},
    "ImageNet": {"imagenet/images/train": "imagenet/train", "imagenet/images/val": "imagenet/val"},
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_layouts(name: str, tmp_path: Path) -> None:
    layout = make(name, tmp_path / "family")
    for old, new in TORCHVISION[name].items():
        target = tmp_path / "torchvision" / new
        target.parent.mkdir(parents=True, exist_ok=True)
        source = tmp_path / "family" / old
        shutil.move(source if source.exists() else tmp_path / "torchvision" / old, target)
    dataset = read(name, tmp_path / "torchvision")
    assert dataset.classnames == layout.classnames
    assert rows(dataset, "test") == layout.test
