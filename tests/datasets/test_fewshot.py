"""Kept few-shot lists: readable, portable, never trusted when something changed, never needed."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from datasets.fewshot import fingerprint, seeded
from tests.datasets.layouts import make, picture
from tests.datasets.reading import read, rows

KEPT = "eurosat/split_fewshot/shot_2-seed_1.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make("EuroSAT", tmp_path)
    return tmp_path


def picks(root: Path, name: str = "EuroSAT", **settings: object) -> tuple[list, list]:
    dataset = read(name, root, NUM_SHOTS=2, **settings)
    return rows(dataset, "train_x"), rows(dataset, "val")


def test_list_is_readable_and_relative(root: Path) -> None:
    train, val = picks(root)
    kept = json.loads((root / KEPT).read_text())
    assert (kept["train"], kept["val"]) == (train, val)
    assert str(root) not in (root / KEPT).read_text()
    assert len((root / KEPT).read_text().splitlines()) > len(train) + len(val)


def test_kept_list_is_used_and_survives_a_move(root: Path, capsys: pytest.CaptureFixture) -> None:
    before = picks(root)
    assert "Creating a 2-shot dataset" in capsys.readouterr().out
    moved = root / "elsewhere"
    moved.mkdir()
    shutil.move(root / "eurosat", moved / "eurosat")
    assert picks(moved) == before
    assert "Creating" not in capsys.readouterr().out


def test_random_state_is_the_same_after_a_hit_and_a_miss(root: Path) -> None:
    random.seed(0)
    expected = random.random()
    for _ in ("miss", "hit"):
        random.seed(0)
        picks(root)
        assert random.random() == expected


def test_list_of_another_split_file_is_drawn_again(root: Path, capsys: pytest.CaptureFixture) -> None:
    picks(root)
    split_file = root / "eurosat/split_zhou_EuroSAT.json"
    split = json.loads(split_file.read_text())
    split["train"].reverse()
    split_file.write_text(json.dumps(split))
    random.seed(1)
    first_class = [row for row in split["train"] if row[1] == split["train"][0][1]]
    assert picks(root)[0][:2] == random.sample(first_class, 2)
    assert "the picks are drawn again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil", [lambda text: text.replace("Forest_", "Forest_1"), lambda text: text[:50], lambda _: "[1]"]
)
def test_edited_or_broken_list_is_drawn_again(spoil, root: Path, capsys: pytest.CaptureFixture) -> None:
    before = picks(root)
    (root / KEPT).write_text(spoil((root / KEPT).read_text()))
    assert picks(root) == before
    assert "the picks are drawn again" in capsys.readouterr().out
    assert picks(root) == before
    assert "drawn again" not in capsys.readouterr().out


def test_list_renamed_to_other_shots_is_not_believed(root: Path) -> None:
    picks(root)
    (root / KEPT).rename(root / "eurosat/split_fewshot/shot_3-seed_1.json")
    assert len(read("EuroSAT", root, NUM_SHOTS=3).train_x) == 12


def test_folder_that_cannot_be_written_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Read-only file system")

    expected = picks(root)
    shutil.rmtree(root / "eurosat/split_fewshot")
    monkeypatch.setattr(os, "makedirs", refuse)
    assert picks(root) == expected
    assert not (root / "eurosat/split_fewshot").exists()


def test_without_a_seed_nothing_is_kept(root: Path) -> None:
    random.seed(5)
    drawn = picks(root, SEED=-1)
    random.seed(5)
    assert picks(root, SEED=-1) == drawn
    assert not (root / KEPT).parent.exists()
    assert picks(root, SEED=0) == picks(root, SEED=0)
    assert (root / "eurosat/split_fewshot/shot_2-seed_0.json").is_file()


def test_pickles_are_left_alone(root: Path, capsys: pytest.CaptureFixture) -> None:
    expected = picks(root)
    pickle = root / "eurosat/split_fewshot/shot_2-seed_1.pkl"
    pickle.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    (root / "eurosat/preprocessed.pkl").write_bytes(b"")
    assert picks(root) == expected
    assert "2 pickled lists" in capsys.readouterr().out
    assert pickle.read_bytes().startswith(b"cos")


def test_imagenet_list_is_drawn_again_when_an_image_comes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    layout = make("ImageNet", tmp_path)
    picks(tmp_path, "ImageNet")
    capsys.readouterr()
    assert picks(tmp_path, "ImageNet")[1] == layout.val
    assert "Creating" not in capsys.readouterr().out
    folder = tmp_path / "imagenet/images/train/n01440764"
    (folder / "n01440764_0a.JPEG").write_bytes(picture("tench"))
    os.utime(folder, ns=(1, 1))
    after = picks(tmp_path, "ImageNet")[0]
    images = sorted(path.name for path in folder.iterdir())
    random.seed(1)
    assert [row[0].rsplit("/", 1)[1] for row in after[:2]] == random.sample(images, 2)


def test_class_with_too_few_images_is_told(root: Path, capsys: pytest.CaptureFixture) -> None:
    read("EuroSAT", root, NUM_SHOTS=16)
    told = "fewer than 16 training images, all of which are taken (4): Annual Crop Land (5), Forest (5)"
    assert told in capsys.readouterr().out


def test_fingerprint() -> None:  # the value is what `printf "a\nb" | sha256sum` prints
    assert fingerprint(["a", "b"]) == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"


def test_seeded_restores_the_generator_after_an_error() -> None:
    random.seed(0)
    state = random.getstate()
    with pytest.raises(KeyError), seeded(7):
        random.random()
        raise KeyError
    assert random.getstate() == state
