"""The one search for a run's checkpoints: what a resumed run goes on from, and what is evaluated."""

import os
import re

from dassl.utils import read_text

__all__ = ["BEST", "LAST", "find_checkpoint", "newest_state"]

LAST = "model-last.pth.tar"  # the state after the newest finished epoch, while training goes on
BEST = "model-best.pth.tar"


def newest_state(folder: str) -> str | None:
    """The file that an unfinished run left, else the one that ``checkpoint`` names, else that of the last epoch."""
    last, pointer = os.path.join(folder, LAST), os.path.join(folder, "checkpoint")
    if os.path.isfile(last):
        return last
    if os.path.isfile(pointer):
        named = os.path.join(folder, read_text(pointer).partition("\n")[0].strip())
        if os.path.isfile(named):
            return named
    names = os.listdir(folder) if os.path.isdir(folder) else []
    epochs = [int(name.rpartition("-")[2]) for name in names if re.fullmatch(r"model\.pth\.tar-\d+", name)]
    return os.path.join(folder, f"model.pth.tar-{max(epochs)}") if epochs else None


def find_checkpoint(path: str, name: str, epoch: int | None = None) -> str:
    """The file of ``epoch`` in ``<path>/<name>/``, or in ``path`` itself; without an epoch the best, else the newest.

    ``path`` may be the file itself. ``FileNotFoundError`` with what the folder holds.
    """
    if epoch is None and os.path.isfile(path):
        return path
    folder = os.path.join(path, name)
    folder = folder if os.path.isdir(folder) else path
    wanted = os.path.join(folder, BEST if epoch is None else f"model.pth.tar-{epoch}")
    if os.path.isfile(wanted):
        return wanted
    if epoch is None and (newest := newest_state(folder)):
        return newest
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Model not found at {path}: no such file or folder; see --model-dir")
    found = sorted(os.listdir(folder))
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "") or "nothing"
    what = f" of epoch {epoch}: no model.pth.tar-{epoch}" if epoch is not None else ""
    raise FileNotFoundError(f"Model not found in {folder}{what}; there is {shown}; see --model-dir, --load-epoch")
