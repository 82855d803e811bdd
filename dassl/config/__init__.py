"""The configuration tree: the defaults, into which YAML files and ``KEY VALUE`` pairs are merged."""

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.compat import clean_cfg
from dassl.config.defaults import _C
from dassl.utils.registry import UnknownNameError, nearest_names
from dassl.utils.tools import read_text, reading

__all__ = [
    "CfgNode",
    "changes_results",
    "check_values",
    "clean_cfg",
    "flatten_cfg",
    "get_cfg_default",
    "load_yaml",
    "merge_from_file",
    "merge_from_list",
    "read_yaml",
    "solve_batch",
]

# Keys, or with a dot at the end sections, that change where a run takes place or how it is looked at, but not what is
# learned.
_HARMLESS = (
    "DATALOADER.CACHE",
    "DATALOADER.FEATURE_STORE",
    "DATALOADER.NUM_WORKERS",
    "DATALOADER.PREFETCH_FACTOR",
    "DATALOADER.TEST.",
    "DATASET.ROOT",
    "MODEL.SHARD_CLASSES",
    "MODEL.TEXT_MEMORY_GB",
    "OUTPUT_DIR",
    "RESUME",
    "TEST.COMPUTE_CMAT",
    "TEST.NO_TEST",
    "TEST.PER_CLASS_RESULT",
    "TEST.SPLIT",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.CHECKPOINT_MINUTES",
    "TRAIN.CHECKPOINT_STEPS",
    "TRAIN.KEEP_STATES",
    "TRAIN.PRINT_FREQ",
    "USE_CUDA",
    "VERBOSE",
    "VERSION",
)
_AT_LEAST_ONE = (
    "OPTIM.MAX_EPOCH",
    "DATALOADER.TEST.BATCH_SIZE",
    "DATALOADER.K_TRANSFORMS",
    "DATALOADER.PREFETCH_FACTOR",
    "TRAIN.KEEP_STATES",
    "TRAIN.PRINT_FREQ",
)
_NOT_NEGATIVE = ("TEST.SELECT_EPOCHS", "TEST.SELECT_STEPS", "TRAIN.CHECKPOINT_MINUTES", "TRAIN.CHECKPOINT_STEPS")


def get_cfg_default() -> CfgNode:
    """A fresh copy of the default tree; mutate it freely."""
    return _C.clone()


def flatten_cfg(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of a nested mapping by their dotted key, e.g. ``{"OPTIM.LR": 0.002}``."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves.update(flatten_cfg(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return leaves


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file, {} in an empty one; ``FileNotFoundError``, or ``ValueError`` with its name."""
    text = read_text(path)
    with reading(path, "valid YAML"):
        content = yaml.safe_load(text)
    if not isinstance(content, dict | None):
        raise ValueError(f'"{path}" must hold KEY: value pairs, but holds a {type(content).__name__}')
    return content or {}


def merge_from_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file into ``cfg``, after the file that its key ``_BASE_`` names (see ``load_yaml``).

    Raises, besides what ``load_yaml`` does, a ``KeyError`` naming an unknown key and its neighbours, or ``ValueError``
    for a value of another type than the default's; both name the file that holds it. Nothing is merged then.
    """
    files = _with_bases(path)
    for name, content in files:
        for key, value in flatten_cfg(content).items():
            _check_key(cfg, key, f" in {name}")
            if value is None:
                raise ValueError(f"{key} has no value (in {name}); is the file complete?")
    pieces = [(_with_floats(cfg, content), f" (in {name})") for name, content in files]
    _merge(cfg, lambda tree, content: tree.merge_from_other_cfg(CfgNode(content)), pieces)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """What a YAML file holds, over what the file holds that its key ``_BASE_`` names, and so on.

    ``_BASE_: ../other.yaml`` is relative to the file that says it; sections are merged, other values replaced. Raises
    ``OSError`` for a file that cannot be read, ``ValueError`` for one that is no YAML mapping, or is its own base.
    """
    whole: dict[str, Any] = {}
    for _, content in _with_bases(path):
        whole = _overlaid(whole, content)
    return whole


def _with_bases(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """A file and its bases, the first to be merged first: how errors call each, and what it holds itself."""
    files: list[tuple[str, dict[str, Any]]] = []
    seen: set[str] = set()
    path, name = Path(path), f'"{path}"'
    while True:
        if os.path.realpath(path) in seen:
            raise ValueError(f"{name}: a file cannot be its own base")
        seen.add(os.path.realpath(path))
        content = _read_mapping(path, name)
        has_base, base = "_BASE_" in content, content.pop("_BASE_", None)
        files.insert(0, (name, content))
        if not has_base:
            return files
        if not (isinstance(base, str) and base):
            raise ValueError(f"_BASE_ must be the path of one YAML file, but is {base!r} in {name}")
        path = path.parent / base
        name = f'"{os.path.normpath(path)}", the _BASE_ of {name}'


def _read_mapping(path: Path, name: str) -> dict[str, Any]:
    """``read_yaml`` of a file that errors call ``name``."""
    try:
        return read_yaml(str(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f'"{path}" ')
        raise type(error)(f"{name}: {why}" if isinstance(error, OSError) else f"{name} {why}") from error


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _overlaid(below[key], value) if inner else value
    return merged


def merge_from_list(cfg: CfgNode, opts: list[Any]) -> None:
    """Merge ``[KEY, VALUE, KEY, VALUE, ...]``; errors as in ``merge_from_file``."""
    if len(opts) % 2:
        raise ValueError(
            f"options come in pairs KEY VALUE, but {len(opts)} words were given: {' '.join(map(str, opts))}"
        )
    for key in opts[0::2]:
        _check_key(cfg, key, " on the command line")
    leaves = flatten_cfg(cfg)
    words = [word for key, value in zip(opts[0::2], opts[1::2]) for word in (key, _as_float(leaves.get(key), value))]
    _merge(cfg, CfgNode.merge_from_list, [(words, "")])


def _merge(cfg: CfgNode, how: Callable[[CfgNode, Any], None], pieces: Sequence[tuple[Any, str]]) -> None:
    """Merge pieces in turn, each with where it stands; first into a copy, so that ``cfg`` stays if one is refused."""
    for tree in (cfg.clone(), cfg):
        for piece, where in pieces:
            try:
                how(tree, piece)
            except (ValueError, TypeError, AttributeError, AssertionError) as error:  # yacs asserts
                why = " ".join(str(error).split())
                raise ValueError(f"{why}{where}; the new value must have the type of the default") from error


def solve_batch(cfg: CfgNode, ranks: int) -> CfgNode:
    """A config whose GLOBAL_BATCH = ranks x BATCH_SIZE x ACCUM_STEPS, with what was 0 solved for; frozen as ``cfg`` is.

    ``ValueError`` if no whole number solves it, or all are given and contradict each other.
    """
    size, passes, total = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.OPTIM.ACCUM_STEPS, cfg.OPTIM.GLOBAL_BATCH
    if size < 0 or not (size or total):
        raise ValueError(
            f"DATALOADER.TRAIN_X.BATCH_SIZE must be at least 1, but is {size}; 0 is for OPTIM.GLOBAL_BATCH"
        )
    if passes < 0 or total < 0:
        raise ValueError(f"OPTIM.ACCUM_STEPS and GLOBAL_BATCH must be 0 or more, but are {passes} and {total}")
    known = {"processes": ranks, "BATCH_SIZE": size, "ACCUM_STEPS": passes}
    product = math.prod(value for value in known.values() if value)
    left, remainder = divmod(total or product, product)
    if remainder or (size and passes and left != 1):
        told = " x ".join(f"{name} ({value or '?'})" for name, value in known.items())
        raise ValueError(
            f"OPTIM.GLOBAL_BATCH {total} = {told} has no solution: change DATALOADER.TRAIN_X.BATCH_SIZE (0: solved"
            " for), OPTIM.ACCUM_STEPS, or the number of processes"
        )
    solved = cfg.clone()
    solved.defrost()
    solved.NUM_RANKS, solved.OPTIM.GLOBAL_BATCH = ranks, total or product
    solved.DATALOADER.TRAIN_X.BATCH_SIZE = size or left
    solved.OPTIM.ACCUM_STEPS = passes or (left if size else 1)
    if cfg.is_frozen():
        solved.freeze()
    return solved


def check_values(cfg: CfgNode) -> None:
    """``ValueError`` for a value that no run can use, before it would show in the middle of one."""
    leaves = flatten_cfg(cfg)
    for key in _AT_LEAST_ONE:
        if leaves[key] < 1:
            raise ValueError(f"{key} must be at least 1, but is {leaves[key]}")
    for key in _NOT_NEGATIVE:
        if not leaves[key] >= 0:
            raise ValueError(f"{key} must be 0 or more, but is {leaves[key]}")
    if not 0 < (budget := cfg.MODEL.TEXT_MEMORY_GB) < math.inf:
        raise ValueError(f"MODEL.TEXT_MEMORY_GB must be a number larger than 0, but is {budget}")
    if (split := cfg.TEST.SPLIT) not in ("test", "val"):
        raise ValueError(f'TEST.SPLIT must be "test" or "val", but is "{split}"')


def _with_floats(node: CfgNode, loaded: dict[str, Any]) -> dict[str, Any]:
    """``loaded`` with floats for the whole numbers that stand where ``node`` has a float."""
    changed = {}
    for key, value in loaded.items():
        default = node.get(key)
        inner = isinstance(default, dict) and isinstance(value, dict)
        changed[key] = _with_floats(default, value) if inner else _as_float(default, value)
    return changed


def _as_float(default: Any, value: Any) -> Any:
    """A whole number, or a word that reads as one, as a float where the default is one: ``OPTIM.LR 1``."""
    is_whole = type(value) is int or (isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value))
    return float(value) if isinstance(default, float) and is_whole else value


def _check_key(cfg: CfgNode, key: str, where: str) -> None:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            near = nearest_names(key, flatten_cfg(cfg))
            hint = f"; nearest existing keys: {', '.join(near)}" if near else ""
            raise UnknownNameError(f"Non-existent config key: {key}{where}{hint}")
        node = node[part]


def changes_results(key: str) -> bool:
    """Whether an option can change what is learned."""
    return not any(key.startswith(name) if name.endswith(".") else key == name for name in _HARMLESS)
