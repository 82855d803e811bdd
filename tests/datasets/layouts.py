"""Miniatures of the sixteen benchmark data sets: real folders, file names and formats, few classes, tiny images.

``make(name, root)`` writes one data set below ``root`` and returns what its reader must find; ``make_all(root)``
writes all of them. The expected labels, names and splits are written out here, not computed by the readers.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

PER_CLASS = 10  # images; a split has 5 + 2 + 3 of them where the authors cut the whole class at random
Rows = list[list]  # [path below the image folder, label, class name]


class Layout(NamedTuple):
    """What a reader must find."""

    classnames: list[str]
    train: Rows
    val: Rows
    test: Rows


def make(name: str, root: Path, split_file: bool = True) -> Layout:
    """Write the data set with the registry name ``name``; without ``split_file``, only what its publishers ship."""
    layout, split_path = MAKERS[name](root)
    if split_file and split_path:
        write(split_path, json.dumps({part: getattr(layout, part) for part in ("train", "val", "test")}, indent=4))
    return layout


def make_all(root: Path) -> dict[str, Layout]:
    """Write all sixteen data sets; returns the layouts by registry name."""
    return {name: make(name, root) for name in MAKERS}


def write(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write text, bytes or lines, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = "".join(f"{line}\n" for line in content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@functools.cache
def picture(kind: str) -> bytes:
    """A JPEG of 12 x 8 pixels in a colour of its own."""
    file = io.BytesIO()
    Image.new("RGB", (12, 8), tuple(hashlib.sha256(kind.encode()).digest()[:3])).save(file, "JPEG")
    return file.getvalue()


def write_images(image_dir: Path, rows: Iterable[list]) -> None:
    for path, _, name in rows:
        write(image_dir / path, picture(name))


def random_cut(classes: dict[str, list[str]]) -> Layout:
    """Class name -> paths, in label order; per class 5 train, 2 val and 3 test images."""
    rows = [[[path, label, name] for path in paths] for label, (name, paths) in enumerate(classes.items())]
    cuts = (slice(0, 5), slice(5, 7), slice(7, 10))
    return Layout(list(classes), *([row for group in rows for row in group[cut]] for cut in cuts))


def official_test(train: dict[str, list[str]], test: dict[str, list[str]]) -> Layout:
    """Class name -> paths; a fifth of each class's training images is val."""
    cut = random_cut({name: paths[2:] + paths[:2] for name, paths in train.items()})
    rest = [[path, label, name] for label, (name, paths) in enumerate(test.items()) for path in paths]
    return Layout(cut.classnames, [*cut.train, *cut.test], cut.val, rest)


def caltech101(root: Path) -> tuple[Layout, Path | None]:
    folders = {"Faces": "face", "Leopards": "leopard", "accordion": "accordion", "airplanes": "airplane"}
    folders |= {"water_lilly": "water_lilly"}
    image_dir = root / "caltech-101/101_ObjectCategories"
    layout = random_cut(
        {name: [f"{folder}/image_{i:04d}.jpg" for i in range(1, 11)] for folder, name in folders.items()}
    )
    for part in layout[1:]:
        write_images(image_dir, part)
    for folder in ("BACKGROUND_Google", "Faces_easy"):
        write(image_dir / folder / "image_0001.jpg", picture(folder))
    write(image_dir / "BACKGROUND_Google/tmp", "")
    return layout, root / "caltech-101/split_zhou_Caltech101.json"


def oxford_pets(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "oxford_pets"
    breeds = ["Abyssinian", "american_bulldog", "american_pit_bull_terrier", "yorkshire_terrier"]
    train = {breed.lower(): [f"{breed}_{i}.jpg" for i in range(1, 11)] for breed in breeds}
    test = {breed.lower(): [f"{breed}_{i}.jpg" for i in range(101, 105)] for breed in breeds}
    layout = official_test(train, test)
    for part in layout[1:]:
        write_images(folder / "images", part)
    write(folder / "images/Abyssinian_101.mat", b"")
    for name, classes in (("trainval", train), ("test", test)):
        lines = [f"{p[:-4]} {i} 1 {i}" for i, paths in enumerate(classes.values(), 1) for p in paths]
        write(folder / f"annotations/{name}.txt", lines)
    return layout, folder / "split_zhou_OxfordPets.json"


def stanford_cars(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "stanford_cars"
    published = ["AM General Hummer SUV 2000", "Bentley Continental Supersports Conv. Convertible 2012"]
    published += ["Ram C/V Cargo Van Minivan 2012"]
    names = ["2000 AM General Hummer SUV", "2012 Bentley Continental Supersports Conv. Convertible"]
    names += ["2012 Ram C/V Cargo Van Minivan"]
    train = {name: [f"cars_train/{1 + label + 3 * i:05d}.jpg" for i in range(10)] for label, name in enumerate(names)}
    test = {name: [f"cars_test/{1 + label + 3 * i:05d}.jpg" for i in range(4)] for label, name in enumerate(names)}
    layout = official_test(train, test)
    layout = layout._replace(train=[*layout.train[8:], *layout.train[:8]])  # classes are in no order
    for part in layout[1:]:
        write_images(folder, part)
    (folder / "devkit").mkdir()
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(published, dtype=object)[None]})
    for file, classes in (("devkit/cars_train_annos", train), ("cars_test_annos_withlabels", test)):
        rows = sorted((path.split("/")[1], label) for label, paths in enumerate(classes.values(), 1) for path in paths)
        annotations = np.zeros((1, len(rows)), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        annotations[0] = [(39.0, float(label), name) for name, label in rows]
        savemat(folder / f"{file}.mat", {"annotations": annotations})
    return layout, folder / "split_zhou_StanfordCars.json"


def oxford_flowers(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "oxford_flowers"
    names = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells"}
    ids = [3] * 10 + [1] * 10 + [2] * 10  # in order of the image number
    images = {label: [f"image_{i:05d}.jpg" for i, id_ in enumerate(ids, 1) if id_ == label] for label in (1, 2, 3)}
    layout = random_cut({names[str(label)]: paths for label, paths in images.items()})
    parts = [sorted(part, key=lambda row: row[0]) for part in layout[1:]]  # class 3 first, as in the .mat file
    for part in parts:
        write_images(folder / "jpg", part)
    savemat(folder / "imagelabels.mat", {"labels": np.array([ids], dtype=np.uint8)})
    write(folder / "cat_to_name.json", json.dumps(names))
    return Layout(layout.classnames, *parts), folder / "split_zhou_OxfordFlowers.json"


def food101(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "food-101"
    names = ["apple_pie", "baby_back_ribs", "waffles"]
    layout = random_cut({name: [f"{name}/{100000 + 137 * i}.jpg" for i in range(10)] for name in names})
    for part in layout[1:]:
        write_images(folder / "images", part)
    write(folder / "meta/classes.txt", names)
    write(folder / "license_agreement.txt", "")
    return layout, folder / "split_zhou_Food101.json"


def fgvc_aircraft(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "fgvc_aircraft"
    names = ["707-320", "BAE 146-200", "F/A-18"]
    layout = random_cut({name: [f"{34958 + 7 * (10 * c + i):07d}.jpg" for i in range(10)]
                         for c, name in enumerate(names)})  # fmt: skip
    write(folder / "variants.txt", names)
    for part in ("train", "val", "test"):
        write_images(folder / "images", getattr(layout, part))
        write(folder / f"images_variant_{part}.txt", [f"{path[:-4]} {name}" for path, _, name in getattr(layout, part)])
    return layout, None


def sun397(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "sun397"
    scenes = {"a/abbey": "abbey", "b/bow_window/indoor": "indoor bow_window"}
    scenes |= {"t/theater/indoor_procenium": "indoor_procenium theater"}
    train = {name: [f"{scene}/sun_a{i:02d}.jpg" for i in range(10)] for scene, name in scenes.items()}
    test = {name: [f"{scene}/sun_b{i:02d}.jpg" for i in range(5)] for scene, name in scenes.items()}
    layout = official_test(train, test)
    for part in layout[1:]:
        write_images(folder / "SUN397", part)
    write(folder / "ClassName.txt", [f"/{scene}" for scene in scenes])
    for name, classes in (("Training_01", train), ("Testing_01", test)):
        write(folder / f"{name}.txt", [f"/{path}" for paths in classes.values() for path in paths])
    return layout, folder / "split_zhou_SUN397.json"


def dtd(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "dtd"
    names = ["banded", "polka-dotted", "zigzagged"]
    layout = random_cut({name: [f"{name}/{name}_{i:04d}.jpg" for i in range(2, 12)] for name in names})
    for part in layout[1:]:
        write_images(folder / "images", part)
    write(folder / "images/zigzagged/.directory", "")
    write(folder / "labels/train1.txt", ["banded/banded_0002.jpg"])
    return layout, folder / "split_zhou_DescribableTextures.json"


def eurosat(root: Path) -> tuple[Layout, Path | None]:
    folders = {"AnnualCrop": "Annual Crop Land", "Forest": "Forest", "Highway": "Highway or Road"}
    folders |= {"SeaLake": "Sea or Lake"}
    layout = random_cut({name: [f"{f}/{f}_{i}.jpg" for i in range(1, 11)] for f, name in folders.items()})
    for part in layout[1:]:
        write_images(root / "eurosat/2750", part)
    return layout, root / "eurosat/split_zhou_EuroSAT.json"


def ucf101(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "ucf101"
    actions = {"Hammering": "Hammering", "HammerThrow": "Hammer_Throw", "HandstandPushups": "Handstand_Pushups"}
    actions |= {"YoYo": "Yo_Yo"}
    videos = {action: action.replace("stand", "Stand") for action in actions}  # v_HandStandPushups, as published
    clips = {a: [f"v_{videos[a]}_g{8 + i // 4:02d}_c{1 + i % 4:02d}" for i in range(10)] for a in actions}
    tests = {a: [f"v_{videos[a]}_g01_c{i:02d}" for i in range(1, 4)] for a in actions}
    frames = [
        {name: [f"{name}/{clip}.jpg" for clip in part[a]] for a, name in actions.items()} for part in (clips, tests)
    ]
    layout = official_test(*frames)
    for part in layout[1:]:
        write_images(folder / "UCF-101-midframes", part)
    lists = folder / "ucfTrainTestlist"
    write(lists / "classInd.txt", [f"{i} {action}" for i, action in enumerate(actions, 1)])
    write(lists / "trainlist01.txt", [f"{a}/{c}.avi {i}" for i, a in enumerate(actions, 1) for c in clips[a]])
    write(lists / "testlist01.txt", [f"{a}/{c}.avi" for a in actions for c in tests[a]])
    return layout, folder / "split_zhou_UCF101.json"


WORDNET = {  # in label order; two classes share a name, as in CLIP's list
    "n01440764": "tench",
    "n01443537": "goldfish",
    "n01484850": "great white shark",
    "n04355933": "sunglasses",
    "n04356056": "sunglasses",
}


def write_classnames(folder: Path) -> None:
    write(folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in WORDNET.items()])


def class_rows(pattern: str, wnids: Iterable[str], names: dict[str, str], count: int) -> Rows:
    """Rows in sorted order of class and image; ``pattern`` has the fields w (WordNet id), l (label) and i."""
    rows = []
    for label, wnid in enumerate(wnids):
        rows += [
            [path, label, names[wnid]] for path in sorted(pattern.format(w=wnid, l=label, i=i) for i in range(count))
        ]
    return rows


def imagenet(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "imagenet"
    train = class_rows("train/{w}/{w}_{i}.JPEG", WORDNET, WORDNET, 12)  # _10 sorts before _2
    test = class_rows("val/{w}/ILSVRC2012_val_{l:04d}{i:04d}.JPEG", WORDNET, WORDNET, 3)
    write_images(folder / "images", train + test)
    write(folder / "images/train/.DS_Store", b"")
    write_classnames(folder)
    return Layout(list(WORDNET.values()), train, test, test), None


def imagenet_21k(root: Path) -> tuple[Layout, Path | None]:
    folder = root / "imagenet21k_resized"
    names = {"n00005787": "benthos", "n00015388": "animal", "n00021265": "food, nutrient"}
    train = class_rows("imagenet21k_train/{w}/{w}_{i}.JPEG", names, names, PER_CLASS)
    test = class_rows("imagenet21k_val/{w}/{w}_9{i}.JPEG", names, names, 3)
    write_images(folder, train + test)
    tree = {"class_description": names | {"n00004475": "organism"}, "class_tree_list": [[0], [1, 0], [2, 1, 0]]}
    torch.save(tree, folder / "imagenet21k_miil_tree.pth")
    return Layout(list(names.values()), train, test, test), None


def shifted(folder: str, image_dir: str, pattern: str, wnids: list[str], root: Path) -> tuple[Layout, Path | None]:
    """A relative of ImageNet: test images only, which also stand in for the training images."""
    rows = class_rows(pattern, wnids, WORDNET, 3)
    write_images(root / folder / image_dir, rows)
    if image_dir in ("imagenet-a", "imagenet-r"):
        write(root / folder / image_dir / "README.txt", "")
    write_classnames(root / folder)
    return Layout([WORDNET[wnid] for wnid in wnids], rows, [], rows), None


ALL, SOME = list(WORDNET), ["n01443537", "n04356056"]
V2 = ("imagenetv2", "imagenetv2-matched-frequency-format-val", "{l}/{l}aa7f{i}.jpeg", ALL)
SKETCH = ("imagenet-sketch", "images", "{w}/sketch_{i}.JPEG", ALL)
A = ("imagenet-adversarial", "imagenet-a", "{w}/0.0001{i}_nail _ nail_0.7.jpg", SOME)
R = ("imagenet-rendition", "imagenet-r", "{w}/art_{i}.jpg", SOME)

MAKERS: dict[str, Callable[[Path], tuple[Layout, Path | None]]] = {
    "ImageNet": imagenet,
    "Caltech101": caltech101,
    "OxfordPets": oxford_pets,
    "StanfordCars": stanford_cars,
    "OxfordFlowers": oxford_flowers,
    "Food101": food101,
    "FGVCAircraft": fgvc_aircraft,
    "SUN397": sun397,
    "DescribableTextures": dtd,
    "EuroSAT": eurosat,
    "UCF101": ucf101,
    "ImageNetV2": functools.partial(shifted, *V2),
    "ImageNetSketch": functools.partial(shifted, *SKETCH),
    "ImageNetA": functools.partial(shifted, *A),
    "ImageNetR": functools.partial(shifted, *R),
    "ImageNet21K": imagenet_21k,
}
