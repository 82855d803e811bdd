"""What users get wrong with the benchmark data sets, and what they are told."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.datasets.layouts import make
from tests.datasets.reading import read


def edit_split(path: Path, change) -> None:
    split = json.loads(path.read_text())
    change(split)
    path.write_text(json.dumps(split))


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read("Caltech101", tmp_path / "nowhere")
    text = str(error.value)
    assert f"no folder caltech-101 or caltech101 in {tmp_path}/nowhere, which does not exist" in text
    assert "--root" in text and "python -m tools.data fetch Caltech101" in text


def test_root_with_something_else(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"which holds a, b, c, d, e and 2 more\."):
        read("DescribableTextures", tmp_path)


def test_empty_data_set_folder(tmp_path: Path) -> None:
    (tmp_path / "food-101").mkdir()
    with pytest.raises(FileNotFoundError, match=r"Food101: no folder images in .*/food-101, which is empty"):
        read("Food101", tmp_path)


def test_half_unpacked_archive(tmp_path: Path) -> None:
    layout = make("EuroSAT", tmp_path)
    shutil.rmtree(tmp_path / "eurosat/2750/Forest")
    with pytest.raises(FileNotFoundError) as error:
        read("EuroSAT", tmp_path)
    text = str(error.value)
    missing = [row[0] for part in layout[1:] for row in part if row[0].startswith("Forest")]
    assert "EuroSAT: 10 of 40 image files are missing" in text
    assert all(f"2750/{path}" in text for path in missing[:3])
    assert missing[3] not in text
    assert f"Looked in {tmp_path}/eurosat/2750" in text and "unpacked completely" in text


def test_missing_annotations(tmp_path: Path) -> None:
    make("OxfordPets", tmp_path, split_file=False)
    (tmp_path / "oxford_pets/annotations/test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"OxfordPets: no file test.txt in .*annotations, which holds trainval"):
        read("OxfordPets", tmp_path)


def test_image_of_an_unknown_class(tmp_path: Path) -> None:
    make("FGVCAircraft", tmp_path)
    (tmp_path / "fgvc_aircraft/variants.txt").write_text("707-320\nF/A-18\n")
    with pytest.raises(
        ValueError, match=r"class 'BAE 146-200' has images but is not among the 2 classes of variants.txt"
    ):
        read("FGVCAircraft", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", '{"train": []}', '{"train": 1, "val": [], "test": []}', "null", ""),
        *(f'{{"train": [{row}], "val": [], "test": []}}' for row in ('["a", 0]', '[1, 0, "b"]', '["a", 0, 1]', "7")),
        *(f'{{"train": [["a", {label}, "b"]], "val": [], "test": []}}' for label in ('"x"', "Infinity", "null")),
        *(b"\xff\xfe{\0}\0", "{'caf\xe9'}".encode("latin-1"), bytes(range(256))),
    ],
)
def test_broken_split_file(content: str | bytes, tmp_path: Path) -> None:
    make("EuroSAT", tmp_path)
    path = tmp_path / "eurosat/split_zhou_EuroSAT.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r'split_zhou_EuroSAT.json" is not (a split file: expected|valid JSON|a text)'):
        read("EuroSAT", tmp_path)


def test_inconsistent_split_files(tmp_path: Path) -> None:
    make("EuroSAT", tmp_path)
    path = tmp_path / "eurosat/split_zhou_EuroSAT.json"
    good = path.read_text()
    edit_split(path, lambda split: split["train"][0].__setitem__(2, "Wood"))
    with pytest.raises(ValueError, match=r"label 0 has several class names: Annual Crop Land, Wood"):
        read("EuroSAT", tmp_path)
    path.write_text(good)
    edit_split(path, lambda split: split.update(train=[row for row in split["train"] if row[1] != 1]))
    with pytest.raises(ValueError, match="no training images of label 1"):
        read("EuroSAT", tmp_path)
    path.write_text(good)
    edit_split(path, lambda split: split.update(train=[row for row in split["train"] if row[1] != 3]))
    with pytest.raises(ValueError, match="val or test images, but no training image, of 1 classes: Sea or Lake"):
        read("EuroSAT", tmp_path)
    path.write_text(good)
    edit_split(path, lambda split: split.update(test=[]))
    with pytest.raises(ValueError, match="no test images"):
        read("EuroSAT", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("UCF101", "ucf101/ucfTrainTestlist/classInd.txt"),
        ("UCF101", "ucf101/ucfTrainTestlist/trainlist01.txt"),
        ("OxfordPets", "oxford_pets/annotations/trainval.txt"),
        ("OxfordFlowers", "oxford_flowers/cat_to_name.json"),
        ("OxfordFlowers", "oxford_flowers/imagelabels.mat"),
        ("StanfordCars", "stanford_cars/devkit/cars_meta.mat"),
        ("StanfordCars", "stanford_cars/devkit/cars_train_annos.mat"),
        ("FGVCAircraft", "fgvc_aircraft/images_variant_train.txt"),
        ("SUN397", "sun397/Training_01.txt"),
        ("ImageNet", "imagenet/classnames.txt"),
        ("ImageNet21K", "imagenet21k_resized/imagenet21k_miil_tree.pth"),
    ],
)
@pytest.mark.parametrize("content", [b"one\n", "na\u00efve\n".encode("latin-1"), "1 a\n".encode("utf-16"), b"\0" * 200])
def test_damaged_annotations_are_named(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    make(name, tmp_path, split_file=False)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=Path(file).name.replace(".", r"\.")) as caught:
        read(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [10**12, -1])
def test_labels_out_of_range_are_refused_at_once(label: int, tmp_path: Path) -> None:
    """Whatever the largest label, time and memory follow the number of images."""
    make("EuroSAT", tmp_path)
    edit_split(
        tmp_path / "eurosat/split_zhou_EuroSAT.json",
        lambda split: [row.__setitem__(1, label) for rows in split.values() for row in rows if row[1] == 3],
    )
    with pytest.raises(ValueError, match=rf"EuroSAT.*no training images of label 3; .* are {min(label, 0)} to "):
        read("EuroSAT", tmp_path)


def test_template_without_a_place_for_the_name(tmp_path: Path) -> None:
    make("EuroSAT", tmp_path)
    with pytest.raises(ValueError, match=r"DATASET.TEMPLATE 'a photo' has no \{\}"):
        read("EuroSAT", tmp_path, TEMPLATE="a photo")


def test_flat_imagenet_val(tmp_path: Path) -> None:
    make("ImageNet", tmp_path)
    val = tmp_path / "imagenet/images/val"
    for image in list(val.glob("*/*")):
        image.rename(val / image.name)
    for folder in [path for path in val.iterdir() if path.is_dir()]:
        folder.rmdir()
    with pytest.raises(
        ValueError, match=r"val holds images but no class folders.*tools.data fetch ImageNet' sorts them"
    ):
        read("ImageNet", tmp_path)


def test_imagenet_train_and_val_differ(tmp_path: Path) -> None:
    make("ImageNet", tmp_path)
    shutil.rmtree(tmp_path / "imagenet/images/val/n01443537")
    with pytest.raises(ValueError, match=r"\(5 classes\) and .*only in train: n01443537; only in val: none"):
        read("ImageNet", tmp_path)


def test_class_folder_without_images(tmp_path: Path) -> None:
    make("ImageNetR", tmp_path)
    (tmp_path / "imagenet-rendition/imagenet-r/n01440764").mkdir()
    with pytest.raises(ValueError, match=r"imagenet-r/n01440764 holds no images"):
        read("ImageNetR", tmp_path)


def test_wrong_class_name_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make("ImageNet", tmp_path)
    path = tmp_path / "imagenet/classnames.txt"
    good = path.read_text()
    path.write_text("n00000001 thing\n")
    with pytest.raises(
        ValueError, match=r"5 of 5 class folders have no class name: n01440764, n01443537, n01484850, \.\.\."
    ):
        read("ImageNet", tmp_path)
    path.write_text("tench\n")
    with pytest.raises(ValueError, match=r"classnames.txt, line 1: expected '<WordNet id> <name>', found 'tench'"):
        read("ImageNet", tmp_path)
    path.write_text(good + "".join(f"n1{i:07d} thing {i}\n" for i in range(995)))
    assert read("ImageNet", tmp_path).classnames[0] == "tench"
    assert "are not CLIP's" in capsys.readouterr().out


def test_without_class_name_file_clips_own_names_are_used(tmp_path: Path) -> None:
    layout = make("ImageNet", tmp_path)
    (tmp_path / "imagenet/classnames.txt").unlink()
    assert read("ImageNet", tmp_path).classnames == layout.classnames


def test_duplicated_names_are_kept_and_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make("ImageNet", tmp_path)
    assert read("ImageNet", tmp_path).num_classes == 5
    assert "class names that stand for several classes are kept: sunglasses (labels 3, 4)" in capsys.readouterr().out


def test_a_class_without_a_name(tmp_path: Path) -> None:
    layout = make("EuroSAT", tmp_path)
    forest = layout.classnames[1]

    def unname(split: dict) -> None:
        for rows in split.values():
            for row in rows:
                row[2] = " " if row[2] == forest else row[2]

    (path,) = (tmp_path / "eurosat").glob("split_zhou_*.json")
    edit_split(path, unname)
    with pytest.raises(ValueError, match=r"EuroSAT in .*: the class name of label 1 is empty"):
        read("EuroSAT", tmp_path)


def test_imagenetv2_folders_and_order(tmp_path: Path) -> None:
    make("ImageNetV2", tmp_path)
    folder = tmp_path / "imagenetv2"
    (folder / "imagenetv2-matched-frequency-format-val/4").rename(folder / "imagenetv2-matched-frequency-format-val/x")
    with pytest.raises(ValueError, match=r"0\.\.4; missing: 4; not expected: x"):
        read("ImageNetV2", tmp_path)
    names = (folder / "classnames.txt").read_text().splitlines()
    (folder / "classnames.txt").write_text("\n".join(reversed(names)))
    with pytest.raises(ValueError, match="must be sorted by WordNet id"):
        read("ImageNetV2", tmp_path)


def test_imagenet_21k_tree(tmp_path: Path) -> None:
    make("ImageNet21K", tmp_path)
    path = tmp_path / "imagenet21k_resized/imagenet21k_miil_tree.pth"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="has no 'class_description'"):
        read("ImageNet21K", tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"ImageNet21K: no file imagenet21k_miil_tree.pth"):
        read("ImageNet21K", tmp_path)


def test_too_few_images_to_cut(tmp_path: Path) -> None:
    make("DescribableTextures", tmp_path, split_file=False)
    for image in sorted((tmp_path / "dtd/images/banded").iterdir())[3:]:
        image.unlink()
    with pytest.raises(ValueError, match="class 'banded' has 3 images, too few"):
        read("DescribableTextures", tmp_path)
