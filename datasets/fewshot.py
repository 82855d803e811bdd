"""Few-shot picks, kept as readable JSON in ``<data set>/split_fewshot``.

The kept list saves time only: a pick depends on the list of images, the number of shots and the seed, and on
nothing else. Nothing is ever unpickled.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dassl.utils import atomic_write, read_json

from .splits import Item

Picks = tuple[list[Item], list[Item]]  # train, val


def fingerprint(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of lines joined by a newline, none at the end: of paths, class names or rows."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def rows_hash(items: Iterable[Item], *context: object) -> str:
    """Fingerprint of whole rows, and of whatever else a pick depends on."""
    return fingerprint([*map(str, context), *(f"{path}\t{label}\t{name}" for path, label, name in items)])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's generator inside and leave it untouched outside; a negative seed changes nothing."""
    if seed < 0:
        yield
        return
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def load_picks(path: Path, source: str) -> Picks | None:
    """The picks kept in ``path``, or None if there are none, they were made from another source, or were edited."""
    try:
        kept = read_json(str(path))
        train, val = ([Item(*row) for row in kept[name]] for name in ("train", "val"))
        fresh = kept["source"] == source and kept["sha256"] == rows_hash(train + val)
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fresh = False
    if fresh:
        return train, val
    print(f"Note: {path} was made from other files or edited; the picks are drawn again")
    return None


def save_picks(path: Path, source: str, picks: Picks) -> None:
    """Keep the picks, all or nothing; a folder that cannot be written to is no error."""
    train, val = picks
    content = {"source": source, "sha256": rows_hash(train + val), "train": train, "val": val}
    try:
        with atomic_write(str(path), "w") as file:
            file.write(_one_row_per_line(content))
    except OSError:
        return
    print(f"Saving preprocessed few-shot data to {path}")


def note_pickles(dataset_dir: Path) -> None:
    """Say so if upstream's pickled caches lie there: they are not read."""
    pickles = [*dataset_dir.glob("preprocessed.pkl"), *dataset_dir.glob("split_fewshot/*.pkl")]
    if pickles:
        print(f"Note: {len(pickles)} pickled lists in {dataset_dir} are ignored ({pickles[0].name}, ...)")


def _one_row_per_line(content: dict) -> str:
    def dump(value: object) -> str:
        if not isinstance(value, list):
            return json.dumps(value)
        return "[\n" + ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value) + "\n ]"

    return "{\n" + ",\n".join(f" {json.dumps(key)}: {dump(value)}" for key, value in content.items()) + "\n}\n"
