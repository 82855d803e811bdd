"""The configuration tree: the defaults, into which YAML files and ``KEY VALUE`` pairs are merged."""

import math
import re
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.config.defaults import _C
from dassl.utils.registry import UnknownNameError, nearest_names
from dassl.utils.tools import read_text, reading

__all__ = [
    "CfgNode",
    "check_values",
    "clean_cfg",
    "flatten_cfg",
    "get_cfg_default",
    "merge_from_file",
    "merge_from_list",
    "read_yaml",
]

_AT_LEAST_ONE = (
    "OPTIM.MAX_EPOCH",
    "DATALOADER.TRAIN_X.BATCH_SIZE",
    "DATALOADER.TEST.BATCH_SIZE",
    "DATALOADER.K_TRANSFORMS",
    "TRAIN.PRINT_FREQ",
)


def get_cfg_default() -> CfgNode:
    """A fresh copy of the default tree; mutate it freely."""
    return _C.clone()


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Drop the sections of ``cfg.TRAINER`` that belong to other trainers."""
    for key in set(cfg.TRAINER) - {"NAME", trainer.upper()}:
        cfg.TRAINER.pop(key)


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
    """Merge a YAML file into ``cfg``.

    Raises ``FileNotFoundError``, a ``KeyError`` naming an unknown key and its neighbours, or ``ValueError`` for a file
    that is not a YAML mapping or a value of another type than the default's. Nothing is merged then.
    """
    loaded = read_yaml(path)
    for key, value in flatten_cfg(loaded).items():
        _check_key(cfg, key, f' in "{path}"')
        if value is None:
            raise ValueError(f'{key} has no value (in "{path}"); is the file complete?')
    loaded = _with_floats(cfg, loaded)
    _merge(cfg, lambda tree: tree.merge_from_other_cfg(CfgNode(loaded)), f' (in "{path}")')


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
    _merge(cfg, lambda tree: tree.merge_from_list(words), "")


def _merge(cfg: CfgNode, change: Any, where: str) -> None:
    """Apply ``change`` to a copy first, so that a refused value leaves ``cfg`` as it was."""
    try:
        change(cfg.clone())
    except (ValueError, TypeError, AttributeError, AssertionError) as error:  # yacs asserts
        raise ValueError(
            f"{' '.join(str(error).split())}{where}; the new value must have the type of the default"
        ) from error
    change(cfg)


def check_values(cfg: CfgNode) -> None:
    """``ValueError`` for a value that no run can use, before it would show in the middle of one."""
    leaves = flatten_cfg(cfg)
    for key in _AT_LEAST_ONE:
        if leaves[key] < 1:
            raise ValueError(f"{key} must be at least 1, but is {leaves[key]}")
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
