"""``python -m tools.data fetch ImageNet``: official archives, flat validation images, class names."""

import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from datasets.imagenet import clip_classnames
from tests.datasets.layouts import WORDNET, make
from tools.data import imagenet
from tools.data.__main__ import main
from tools.data.catalog import CATALOG
from tools.data.commands import state

from .archives import files_below, one_line, tar_of


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """ImageNet's folder, train as it should be, the validation images 1..15 in a heap; image i has class i mod 5."""
    make("ImageNet", tmp_path)
    val = tmp_path / "imagenet/images/val"
    shutil.rmtree(val)
    val.mkdir()
    for i in range(1, 16):
        (val / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(bytes([i]))
    return tmp_path / "imagenet"


WNIDS = list(WORDNET)
SORTED = {f"{WNIDS[i % 5]}/ILSVRC2012_val_{i:08d}.JPEG": bytes([i]) for i in range(1, 16)}


def devkit_files() -> dict[str, bytes]:
    """The devkit numbers the classes in an order of its own, here the reverse; a parent class follows them."""
    rows = np.zeros((6, 1), dtype=[("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    rows[:, 0] = [(float(5 - i), wnid, 0.0) for i, wnid in enumerate(WNIDS)] + [(6.0, "n00001740", 5.0)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": rows})
    truth = "".join(f"{5 - i % 5}\n" for i in range(1, 16))
    folder = "ILSVRC2012_devkit_t12/data"
    return {
        f"{folder}/meta.mat": buffer.getvalue(),
        f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def write_labels(folder: Path, kind: str) -> None:
    positions = list(clip_classnames())
    labels = {f"ILSVRC2012_val_{i:08d}": WNIDS[i % 5] for i in range(15, 0, -1)}
    if kind == "devkit":
        (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_of(devkit_files()))
    elif kind == "kaggle":
        lines = ["ImageId,PredictionString", *(f"{image},{wnid} 1 2 3 4 " for image, wnid in labels.items())]
        (folder / "LOC_val_solution.csv").write_text("\n".join(lines))
    elif kind == "wnids":
        (folder / "val.txt").write_text("".join(f"{image}.JPEG {wnid}\n" for image, wnid in labels.items()))
    else:
        lines = [f"val/{image}.JPEG {positions.index(wnid)}\n" for image, wnid in labels.items()]
        (folder / "val.txt").write_text("".join(lines))


@pytest.mark.parametrize("kind", ["devkit", "kaggle", "wnids", "positions"])
def test_flat_val_is_sorted(flat: Path, kind: str) -> None:
    write_labels(flat, kind)
    command = ["fetch", "ImageNet", "--root", str(flat.parent)]
    assert state("ImageNet", flat.parent) == "partial: no images/val in class folders"
    before = files_below(flat)
    assert main([*command, "--dry-run"]) == 0
    assert files_below(flat) == before
    done = flat / "images/val" / WNIDS[1] / "ILSVRC2012_val_00000001.JPEG"  # of an interrupted call
    done.parent.mkdir()
    (flat / "images/val/ILSVRC2012_val_00000001.JPEG").rename(done)
    for _ in range(2):
        assert main(command) == 0
        assert files_below(flat / "images/val") == SORTED
    assert state("ImageNet", flat.parent) == "complete"


def test_flat_val_without_labels(flat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fetch", "ImageNet", "--root", str(flat.parent)]
    assert main(command) == 2
    text = one_line(capsys)
    assert "(15 images)" in text and "ILSVRC2012_devkit_t12.tar.gz" in text and "LOC_val_solution.csv" in text
    (flat / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG n01440764\n")
    assert main(command) == 2
    assert "14 images have no label, ILSVRC2012_val_00000002.JPEG for one" in one_line(capsys)
    (flat / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG n01440764\nILSVRC2012_val_00000002.JPEG 1000\n")
    assert main(command) == 2
    assert "val.txt, line 2" in one_line(capsys)
    assert len(list((flat / "images/val").glob("*.JPEG"))) == 15


def test_imagenet_from_its_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, val = CATALOG["ImageNet"].parts
    parts = tuple(p._replace(sources=(p.sources[0]._replace(digest=""),)) for p in (train, val))
    monkeypatch.setitem(CATALOG, "ImageNet", CATALOG["ImageNet"]._replace(parts=parts))
    folder = tmp_path / "imagenet"
    folder.mkdir()
    classes = {f"{wnid}.tar": tar_of({f"{wnid}_{i}.JPEG": wnid.encode() for i in range(2)}) for wnid in WNIDS}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(classes))
    heap = {name.split("/")[1]: content for name, content in SORTED.items()}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(heap))
    write_labels(folder, "devkit")
    (folder / "images/train" / WNIDS[0]).mkdir(parents=True)  # there already, and not touched
    assert main(["fetch", "ImageNet", "--root", str(tmp_path)]) == 0
    expected = {f"{wnid}/{wnid}_{i}.JPEG": wnid.encode() for wnid in WNIDS[1:] for i in range(2)}
    assert files_below(folder / "images/train") == expected
    assert files_below(folder / "images/val") == SORTED


def test_imagenet_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "ImageNet", "--root", str(tmp_path)]) == 2
    text = one_line(capsys)
    assert "could not get images/train, images/val" in text and "free account at https://image-net.org" in text


def test_classnames_are_those_of_clip(tmp_path: Path) -> None:
    for wnid in clip_classnames():
        (tmp_path / "train" / wnid).mkdir(parents=True)
    imagenet.write_classnames(tmp_path, tmp_path / "train", print)
    lines = (tmp_path / "classnames.txt").read_text().splitlines()
    assert lines[:3] == ["n01440764 tench", "n01443537 goldfish", "n01484850 great white shark"]
    names = "\n".join(line.split(" ", 1)[1] for line in lines)
    expected = "571ae1c583b4be7da87519494c52bf405a46af05d5815627c7a0dee997068b60"
    assert hashlib.sha256(names.encode()).hexdigest() == expected


def test_classnames_are_not_written_for_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train/n01440764").mkdir(parents=True)
    imagenet.write_classnames(tmp_path, tmp_path / "train", print)
    assert "are not ImageNet's 1000 classes" in capsys.readouterr().out
    assert not (tmp_path / "classnames.txt").exists()
