"""Bring ImageNet's official archives, or a flat ``val`` folder, into class folders, and write its class names."""

import os
import re
import shutil
import tarfile
from pathlib import Path

from dassl.utils import atomic_write
from datasets.fewshot import fingerprint
from datasets.imagenet import CLIP_NAMES_SHA256, clip_classnames
from datasets.splits import class_folders, list_images

from . import files
from .archives import unpack, unpack_tar
from .catalog import CATALOG, Part

NUM_CLASSES = 1000
DEVKIT = "ILSVRC2012_devkit_t12"
LABELS_ADVICE = (
    f"to sort them put one of these into the data set's folder: the development kit {DEVKIT}.tar.gz of image-net.org, "
    "Kaggle's LOC_val_solution.csv, or a val.txt with a line '<image> <WordNet id or label from 0>' for each image"
)


def prepare(folder: Path, report: files.Report, dry_run: bool = False) -> None:
    """Unpack the archives that lie in ImageNet's folder, sort ``val``, write ``classnames.txt``; can be interrupted.

    ``ValueError`` if val cannot be sorted because labels are missing.
    """
    train, val = CATALOG["ImageNet"].parts
    archive = files.find_file(train.sources[0], train, folder)
    if archive and not dry_run:
        unpack_train(archive, train, folder, report)
    if not files.is_filled(place_of(val, folder)) and files.find_file(val.sources[0], val, folder) and not dry_run:
        files.fetch_part(val, folder, report)
    sort_val(folder, place_of(val, folder), report, dry_run)
    if not dry_run:
        write_classnames(folder, place_of(train, folder), report)


def place_of(part: Part, folder: Path) -> Path:
    """Where the images of a part are, or would be put."""
    places = [folder / path for path in (*part.paths, *part.accepts)]
    return next((place for place in places if files.is_filled(place)), places[0])


def unpack_train(archive: Path, part: Part, folder: Path, report: files.Report) -> None:
    """Unpack the archive of one archive per class; classes that are there are not unpacked again."""
    train = place_of(part, folder)
    train.mkdir(parents=True, exist_ok=True)
    done = set(class_folders(train))
    if len(done) >= NUM_CLASSES:
        return
    report(f"unpacking {archive} into {train}")
    files.check_digest(archive, part.sources[0].digest)
    try:
        with tarfile.open(archive) as outer:
            for member in iter(outer.next, None):
                name = Path(member.name)
                if member.isfile() and re.fullmatch(r"n\d{8}\.tar", name.name) and name.stem not in done:
                    unpack_class(outer, member, train / name.stem)
    except tarfile.TarError as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error


def unpack_class(outer: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """One class folder, all or nothing."""
    scratch = target.with_name(f".{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    with tarfile.open(fileobj=outer.extractfile(member)) as tar:
        unpack_tar(tar, scratch, ["."])
    os.replace(scratch, target)


def sort_val(folder: Path, val: Path, report: files.Report, dry_run: bool = False) -> None:
    """Move the images of a flat ``val`` folder into class folders; goes on where an earlier call ended."""
    images = list_images(val) if val.is_dir() else []
    if not images:
        return
    labels = val_labels(folder)
    unknown = [image for image in images if image not in labels]
    if unknown:
        what = f"{len(unknown)} images have no label, {unknown[0]} for one" if labels else f"{len(images)} images"
        raise ValueError(f"{val} holds images but not in class folders ({what}); {LABELS_ADVICE}")
    classes = sorted({labels[image] for image in images})
    move = f"{'would move' if dry_run else 'moving'} {len(images)} images into {len(classes)} class folders"
    report(f"{val.resolve()}: {move}, {images[0]} into {labels[images[0]]}")
    if dry_run:
        return
    for wnid in classes:
        (val / wnid).mkdir(exist_ok=True)
    for image in images:
        os.replace(val / image, val / labels[image] / image)


def val_labels(folder: Path) -> dict[str, str]:
    """WordNet id of each validation image, from whichever of the known files is there; empty if none is."""
    for place in (folder / DEVKIT / "data", folder / DEVKIT, folder / "data", folder):
        if (place / "ILSVRC2012_validation_ground_truth.txt").is_file() and (place / "meta.mat").is_file():
            return devkit_labels(place)
    for name, separator in (("LOC_val_solution.csv", ","), ("val.txt", " ")):
        if (folder / name).is_file():
            return listed_labels(folder / name, separator)
    if (folder / f"{DEVKIT}.tar.gz").is_file():
        with files.scratch_folder(folder) as scratch:
            unpack(folder / f"{DEVKIT}.tar.gz", scratch, [DEVKIT])
            return devkit_labels(scratch / DEVKIT / "data")
    return {}


def devkit_labels(place: Path) -> dict[str, str]:
    """The i-th line of the ground truth is the devkit's own class number of the i-th image."""
    from scipy.io import loadmat

    rows = loadmat(str(place / "meta.mat"), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    lines = (place / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    return {f"ILSVRC2012_val_{i:08d}.JPEG": wnids[int(line)] for i, line in enumerate(lines, 1)}


def listed_labels(path: Path, separator: str) -> dict[str, str]:
    """Lines ``<image> <WordNet id or label>``, or Kaggle's ``<image without suffix>,<WordNet id> <box>``."""
    wnids, labels = list(clip_classnames()), {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        image, _, rest = line.strip().partition(separator)
        word = rest.split()[0] if rest.split() else ""
        if re.fullmatch(r"n\d{8}", word):
            wnid = word
        elif word.isdecimal() and int(word) < len(wnids):
            wnid = wnids[int(word)]
        elif number == 1 or not line.strip():
            continue  # a header
        else:
            raise ValueError(f"{path}, line {number}: expected an image and its WordNet id or label, found {line!r}")
        name = Path(image).name
        labels[name if Path(name).suffix else f"{name}.JPEG"] = wnid
    return labels


def write_classnames(folder: Path, train: Path, report: files.Report) -> None:
    """Write CLIP's names for the training folders, which other code of the family expects; ours needs no such file."""
    path = folder / "classnames.txt"
    if path.exists() or not train.is_dir():
        return
    names = clip_classnames()
    if fingerprint(names.values()) != CLIP_NAMES_SHA256:
        report(f"Note: {path} is not written, the names in the installed open_clip are not CLIP's")
        return
    if class_folders(train) != list(names):
        report(f"Note: {path} is not written, the folders of {train} are not ImageNet's {NUM_CLASSES} classes")
        return
    with atomic_write(str(path), "w") as file:
        file.writelines(f"{wnid} {name}\n" for wnid, name in names.items())
    report(f"wrote {path}")
