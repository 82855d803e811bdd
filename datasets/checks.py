"""Checks of what was found on disk: errors for what cannot work, notes on what one should know."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dassl.data.datasets import Datum, class_sizes, one_per_class

from .splits import Item, Split


def describe(folder: Path) -> str:
    """Say what a folder holds, for an error message."""
    if not folder.is_dir():
        return "which is a file" if folder.exists() else "which does not exist"
    names = sorted(os.listdir(folder))
    if not names:
        return "which is empty"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"which holds {', '.join(names[:5])}{more}"


def first(names: Sequence[object]) -> str:
    """The first three of a list, for an error message."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def check_labels(split: Split, source: str) -> None:
    """Training images must exist for labels 0..C-1 with one name each, and no other label may occur elsewhere."""
    if not split.train or not split.test:
        raise ValueError(f"{source}: no {'test' if split.train else 'training'} images")
    names: dict[int, set[str]] = {}
    for item in one_per_class(split.train):
        names.setdefault(item.label, set()).add(item.classname)
    for label, several in names.items():
        if len(several) > 1:
            raise ValueError(f"{source}: label {label} has several class names: {first(sorted(several))}")
    if nameless := [label for label, (name,) in names.items() if not name.replace("_", " ").strip()]:
        raise ValueError(f"{source}: the class name of label {first(sorted(nameless))} is empty")
    if gaps := sorted(set(range(len(names))) - names.keys()):
        found = f"labels must be 0 to the number of classes - 1, and are {min(names)} to {max(names)}"
        raise ValueError(f"{source}: no training images of label {first(gaps)}; {found}")
    strays = sorted({item.classname for items in split[1:] for item in one_per_class(items) if item.label not in names})
    if strays:
        raise ValueError(
            f"{source}: val or test images, but no training image, of {len(strays)} classes: {first(strays)}"
        )


def without_images(items: Iterable[Datum]) -> list[str]:
    """Names of the classes of which no image file is there."""
    items = list(items)
    there = {item.label for item in items if os.path.isfile(item.impath)}
    return [*dict.fromkeys(item.classname for item in items if item.label not in there)]


def note_duplicate_names(items: Sequence[Item]) -> None:
    """Tell which class names several labels share; they are kept."""
    labels: dict[str, list[int]] = {}
    for label, name in sorted({(item.label, item.classname) for item in one_per_class(items)}):
        labels.setdefault(name, []).append(label)
    shared = [f"{name} (labels {', '.join(map(str, at))})" for name, at in labels.items() if len(at) > 1]
    if shared:
        print(f"Note: class names that stand for several classes are kept: {'; '.join(shared)}")


def note_short_classes(items: Sequence[Item], num_shots: int) -> None:
    """Tell which classes have fewer images than shots; all their images are taken."""
    counts = class_sizes(items)
    names = {item.label: item.classname for item in one_per_class(items)}
    short = [f"{names[label]} ({count})" for label, count in sorted(counts.items()) if count < num_shots]
    if short:
        print(
            f"Note: classes with fewer than {num_shots} training images, all of which are taken ({len(short)}): "
            f"{first(short)}"
        )
