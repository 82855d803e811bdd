"""The same image twice among one's own: found by what the files hold, whatever they and links to them are called."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from dassl.utils import sha256_of

from .checks import first
from .splits import Split

CHOICES = ("refuse", "drop", "allow")  # of DATASET.DUPLICATES
MAX_LINES = 200  # of the printed list of contradictions
CHUNK = 256  # files a thread takes at a time
BLOCK = 4096  # bytes at three places of a file that are compared before the whole is


def without_duplicates(split: Split, image_dir: Path, choice: str) -> Split:
    """The lists with every image once; to be called before they are cut.

    Copies in one class of one list are harmless: the first is kept, with a note. An image in several classes, or in
    several lists, contradicts itself: ValueError with ``refuse``; with ``drop`` no copy is kept in the first case, as
    no label can be right, and only that of the last list (test, else val) in the second. ``allow`` compares nothing.
    """
    if choice not in CHOICES:
        raise ValueError(f"DATASET.DUPLICATES must be one of {', '.join(CHOICES)}, got {choice!r}")
    if choice == "allow":
        return split
    images = [(part, item) for part, items in enumerate(split) for item in items]
    in_classes, in_lists, harmless = [], [], []
    left_out: set[int] = set()
    for group in same_content([image_dir / item.path for _, item in images]):
        shown = " = ".join(images[i][1].path for i in group)
        last = max(images[i][0] for i in group)
        kept = next(i for i in group if images[i][0] == last)
        if len({images[i][1].label for i in group}) > 1:
            in_classes.append(shown)
            kept = None
        elif len({images[i][0] for i in group}) > 1:
            in_lists.append(shown)
        else:
            harmless.append(shown)
        left_out |= set(group) - {kept}
    problems = [told(in_classes, "in several classes"), told(in_lists, "in several of train, val and test")]
    if choice == "refuse" and (in_classes or in_lists):
        for line in (in_classes + in_lists)[:MAX_LINES]:
            print(f"The same image: {line}")
        raise ValueError(
            f"{image_dir}: {'; '.join(filter(None, problems))}. Take the copies away, or choose DATASET.DUPLICATES drop"
            " (leaves them out) or allow"
        )
    if left_out:
        problems.append(told(harmless, "there more than once"))
        files = "file is" if len(left_out) == 1 else "files are"
        print(f"Note: {len(left_out)} {files} left out: {'; '.join(filter(None, problems))}")
    return Split(
        *([item for i, (at, item) in enumerate(images) if at == part and i not in left_out] for part in range(3))
    )


def told(groups: Sequence[str], where: str) -> str:
    """How many images are where, and the first of them; empty if none is."""
    return f"{len(groups)} image{'s are' if len(groups) > 1 else ' is'} {where}: {first(groups)}" if groups else ""


def same_content(paths: Sequence[Path]) -> list[list[int]]:
    """Positions of the files that hold the same bytes, in groups of two or more. Empty and unreadable ones have none.

    Files of one size are compared by samples, and those whose samples agree as a whole: few are read, least of all
    large ones.
    """
    groups = [list(range(len(paths)))]
    with ThreadPoolExecutor(8) as pool:
        for key in (size, sample, sha256_of):
            places = [(number, i) for number, group in enumerate(groups) for i in group]
            parts = [places[start : start + CHUNK] for start in range(0, len(places), CHUNK)]
            keys = pool.map(lambda part, key=key: [readable(key, paths[i]) for _, i in part], parts)
            found: dict[Hashable, list[int]] = defaultdict(list)
            for (number, i), value in zip(places, chain.from_iterable(keys)):
                if value is not None:
                    found[number, value].append(i)
            groups = [group for group in found.values() if len(group) > 1]
    return groups


def readable(key: Callable[[str], Hashable], path: Path) -> Hashable:
    """The key of a file, None if it cannot be read: those who look for missing and broken images tell."""
    try:
        return key(str(path))
    except OSError:
        return None


def size(path: str) -> int | None:
    return os.path.getsize(path) or None


def sample(path: str) -> bytes:
    """Digest of the beginning, the middle and the end of a file."""
    end, digest = os.path.getsize(path), hashlib.sha256()
    with open(path, "rb") as file:
        for start in (0, end // 2, max(0, end - BLOCK)):
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.digest()
