"""The files of a run's state: their names, and how they are searched for, written, read and gone on from.

``<run>/<model>/model.pth.tar-<epoch>`` are the checkpoints that are kept, ``checkpoint`` names the one saved last.
"""

import contextlib
import io
import os
import re
import shutil
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from dassl.utils.logger import log
from dassl.utils.safe_load import check_archive, safe_load
from dassl.utils.tools import atomic_write, read_text, reading

__all__ = [
    "BEST",
    "LAST",
    "check_state",
    "copy_file",
    "find_checkpoint",
    "load_checkpoint",
    "newest_state",
    "read_states",
    "remove_leftovers",
    "remove_states",
    "restore",
    "resume_from_checkpoint",
    "save_checkpoint",
    "save_state",
    "save_torch",
    "states",
    "without_module",
]

LAST = "model-last.pth.tar"  # the newest state to go on from, while training goes on; model-last-1.pth.tar before that
BEST = "model-best.pth.tar"


# Search ---------------------------------------------------------------------------------------------------------------


def states(folder: str) -> list[str]:
    """Files to go on from, the newest first: what an unfinished run left, then what ``checkpoint`` names, or the last
    epoch's."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = [os.path.join(folder, name) for name in sorted(filter(_LAST.fullmatch, names), key=_age)]
    pointer = os.path.join(folder, "checkpoint")
    if os.path.isfile(pointer):
        with contextlib.suppress(*([ValueError] if found else [])):  # a damaged pointer, which is not needed
            if os.path.isfile(named := _named_by(pointer)):
                return [*found, named]
    epochs = [int(name.rpartition("-")[2]) for name in names if re.fullmatch(r"model\.pth\.tar-\d+", name)]
    return [*found, os.path.join(folder, f"model.pth.tar-{max(epochs)}")] if epochs else found


def newest_state(folder: str) -> str | None:
    """The first of ``states``, if there is one."""
    return next(iter(states(folder)), None)


_LAST = re.compile(r"model-last(-\d+)?\.pth\.tar")


def _age(name: str) -> int:
    """How many states came after it."""
    return int((_LAST.fullmatch(name)[1] or "-0")[1:])


def _named_by(pointer: str) -> str:
    return os.path.join(os.path.dirname(pointer), read_text(pointer).partition("\n")[0].strip())


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


# Write ----------------------------------------------------------------------------------------------------------------


def save_torch(obj: Any, path: str, make_room: Callable[[], None] = lambda: None) -> None:
    """``torch.save``, atomically. A full disk is an ``OSError`` that leaves the previous file as it was."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with atomic_write(path, make_room=make_room) as file:
        file.write(buffer.getbuffer())


def save_state(state: dict[str, Any], folder: str, keep: int) -> None:
    """Write the state to go on from; ``keep`` of them stay. Whenever the process dies, one that is whole is there."""
    names = [LAST, *(f"model-last-{age}.pth.tar" for age in range(1, keep))]
    paths = [os.path.join(folder, name) for name in names]

    def make_older() -> None:
        for newer, older in reversed([*pairwise(paths)]):
            if os.path.exists(newer):
                os.replace(newer, older)

    save_torch(state, paths[0], make_older)


def remove_states(folder: str) -> None:
    """When the last epoch's checkpoint is enough."""
    for name in filter(_LAST.fullmatch, os.listdir(folder)):
        os.remove(os.path.join(folder, name))


def remove_leftovers(folder: str) -> None:
    """Files that a killed process had begun to write in a folder of its own."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if re.fullmatch(r"\.(model.*|checkpoint|config\.yaml|metrics\.json|cmat\.pt)\.\w+\.tmp", name):
            os.remove(os.path.join(folder, name))


def copy_file(source: str, target: str) -> None:
    """Atomically."""
    with open(source, "rb") as old, atomic_write(target) as new:
        shutil.copyfileobj(old, new)


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> str:
    """Write ``state`` and the text file ``checkpoint`` that points to it; returns the path.

    ``state`` needs the keys ``state_dict`` and ``epoch`` (finished epochs). The file is ``model_name``, else
    ``model.pth.tar-<epoch>``; with ``is_best`` a copy is named ``model-best.pth.tar``.
    """
    if remove_module_from_keys:
        state["state_dict"] = without_module(state["state_dict"])
    name = model_name or f"model.pth.tar-{state['epoch']}"
    path = os.path.join(save_dir, name)
    save_torch(state, path)
    log.info(f"Checkpoint saved to {path}")
    with atomic_write(os.path.join(save_dir, "checkpoint"), "w") as file:
        file.write(f"{name}\n")
    if is_best:
        copy_file(path, best := os.path.join(save_dir, BEST))
        log.info(f'Best checkpoint saved to "{best}"')
    return path


def without_module(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Keys without the ``module.`` that ``DataParallel`` puts in front."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


# Read -----------------------------------------------------------------------------------------------------------------


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; nothing in the file is executed (see ``safe_load``).

    Raises ``ValueError`` (``None``, truncated, not a checkpoint) or ``FileNotFoundError``.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'File is not found at "{fpath}"')
    check_archive(fpath)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: such files go the other way
            return torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can fail in any way
        return safe_load(fpath)  # older files; or the reason why this one cannot be read


def read_states(folders: dict[str, str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path and content of the newest state of every model, all of the same step; folders: by the models' names.

    A damaged file, or one that others have no counterpart of, is told and the one before it taken. ``ValueError`` if
    none is left.
    """
    left = {name: states(folder) for name, folder in folders.items()}
    found = {name: _next_readable(paths) for name, paths in left.items()}
    while len({*(steps := {name: _step_of(state) for name, (_, state) in found.items()}).values()}) > 1:
        newest = max(steps, key=steps.get)
        if not left[newest]:
            epochs = {name: state.get("epoch") for name, (_, state) in found.items()}
            raise ValueError(f"the models of the run are not of the same epoch: {epochs}; start in a new folder")
        found[newest] = _next_readable(left[newest])
    return found


def _next_readable(paths: list[str]) -> tuple[str, dict[str, Any]]:
    """Take paths from the front of the list until one can be read."""
    while True:
        path = paths.pop(0)
        log.info(f'Loading checkpoint from "{path}"')
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            if not paths:
                raise
            log.info(f"Note: it is damaged, going on from the one before it ({error})")


def _step_of(state: Any) -> tuple[int, int]:
    """Finished epochs, and steps of the next one."""
    if not isinstance(state, dict) or not isinstance(state.get("epoch"), int):
        return -1, 0
    return state["epoch"], (state.get("position") or {}).get("step", 0)


# Go on ----------------------------------------------------------------------------------------------------------------


def check_state(checkpoint: Any, path: str, max_epoch: int, **learning: Any) -> None:
    """``ValueError`` for a file that a run cannot go on from as if it had not been interrupted.

    learning: the run's ``optimizer`` and ``scheduler``, None for none; what is there needs its state in the file.
    """
    keys = checkpoint.keys() if isinstance(checkpoint, dict) else ()
    if "state_dict" not in keys or not isinstance(epoch := checkpoint.get("epoch"), int):
        raise ValueError(f'"{path}" is not the state of a run, which has a "state_dict" and the number of its "epoch"')
    if epoch > max_epoch:
        raise ValueError(
            f'"{path}" is of epoch {epoch}, but OPTIM.MAX_EPOCH is {max_epoch}: raise it, or start in a new folder'
        )
    for key, target in learning.items():
        state = checkpoint.get(key)
        if target is None or isinstance(state, dict) or (state is None and epoch == max_epoch):
            continue
        raise ValueError(
            f'"{path}" holds no state of the {key}, without which training cannot go on;'
            " to start from its weights, give a new folder and TRAINER.INIT_PROMPTS"
        )


def restore(
    checkpoint: dict[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None, path: str = "checkpoint"
) -> int:
    """Put a checkpoint's state into the given objects, strictly; returns the number of finished epochs.

    ``ValueError`` that names ``path`` if the checkpoint belongs to another model, or is none.
    """
    with reading(path, "a checkpoint of this model", "resume from another one, or start in a new folder"):
        if not isinstance(checkpoint["epoch"], int):
            raise TypeError(f"epoch is {checkpoint['epoch']!r}")
        model.load_state_dict(checkpoint["state_dict"])
        log.info("Loaded model weights")
        for name, target in (("optimizer", optimizer), ("scheduler", scheduler)):
            if target is not None and checkpoint.get(name) is not None:
                target.load_state_dict(checkpoint[name])
                log.info(f"Loaded {name}")
    log.info(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Restore model, optimiser and scheduler from the file that ``<fdir>/checkpoint`` names; returns its epoch."""
    path = _named_by(os.path.join(fdir, "checkpoint"))
    log.info(f'Loading checkpoint from "{path}"')
    return restore(load_checkpoint(path), model, optimizer, scheduler, path)
