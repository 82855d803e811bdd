"""Whether a ``metrics.json`` is one: the type and the range of everything that tables and plots use of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from configs import runs

Check = tuple[str, Callable[[Any], bool]]  # what is wanted, and whether a value is it

MOST = sys.float_info.max


def _is_number(value: Any, low: float = -MOST, high: float = MOST) -> bool:
    """Not NaN, not infinite, no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_integer(value: Any, low: float = -MOST) -> bool:
    return isinstance(value, int) and _is_number(value, low)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


NAME: Check = ("a name", lambda value: _is_path(value) and bool(value))
PATH: Check = ("a path", lambda value: value is None or _is_path(value))
TEXT: Check = ("a text", lambda value: isinstance(value, str))
TRUTH: Check = ("true or false", lambda value: isinstance(value, bool))
INTEGER: Check = ("a whole number", _is_integer)
SHOTS: Check = ("a whole number from -1", lambda value: _is_integer(value, -1))
LABEL: Check = ("a whole number from 0", lambda value: _is_integer(value, 0))
NUMBER: Check = ("a finite number", _is_number)
PERCENT: Check = ("a number from 0 to 100", lambda value: _is_number(value, 0, 100))
CLASSES: Check = ("all, base or new", lambda value: value in runs.CLASSES)
LIST: Check = ("a list", lambda value: isinstance(value, list))
MAPPING: Check = ("a mapping", lambda value: isinstance(value, dict))

RUN = {
    "trainer": NAME,
    "dataset": NAME,
    "backbone": NAME,
    "seed": INTEGER,
    "num_shots": SHOTS,
    "subsample_classes": CLASSES,
    "eval_only": TRUTH,
}
RUN_MAY_HAVE = {
    "run": MAPPING,
    "trainer_module": TEXT,
    "finished": TEXT,
    "model_dir": PATH,
    "history": LIST,
    "seconds": MAPPING,
    "trainable_parameters": LABEL,
    "peak_memory_gb": NUMBER,
}
SECONDS_MAY_HAVE = {"train": NUMBER, "test": NUMBER}
RESULT_MAY_HAVE = {"error_rate": PERCENT, "macro_f1": PERCENT, "total": LABEL, "correct": LABEL, "per_class": LIST}
PER_CLASS = {"label": LABEL, "classname": NAME, "accuracy": PERCENT}
EPOCH_MAY_HAVE = {"loss": NUMBER, "val_accuracy": PERCENT}


def check_run(metrics: dict[str, Any], results: dict[str, Any]) -> None:
    """``ValueError`` with the first entry of a run's record, or of its results on the test split, that is no use."""
    _check(metrics, "", RUN, RUN_MAY_HAVE)
    _check(results, "results.test.", {"accuracy": PERCENT}, RESULT_MAY_HAVE)
    _check(metrics.get("seconds", {}), "seconds.", {}, SECONDS_MAY_HAVE)
    for place, row in enumerate(results.get("per_class", [])):
        _check(row, f"results.test.per_class[{place}].", PER_CLASS)
    for place, epoch in enumerate(metrics.get("history", [])):
        _check(epoch, f"history[{place}].", {"epoch": LABEL}, EPOCH_MAY_HAVE)


def _check(found: Any, where: str, needed: dict[str, Check], optional: dict[str, Check] | None = None) -> None:
    require(found, where.rstrip(".") or "the record", MAPPING)
    for name in needed.keys() - found.keys():
        raise ValueError(f"{where}{name} is missing")
    for name, check in {**needed, **(optional or {})}.items():
        if name in found:
            require(found[name], where + name, check)


def require(value: Any, name: str, check: Check) -> None:
    """``ValueError`` that says what was wanted and what was found."""
    wanted, holds = check
    if not holds(value):
        shown = repr(value)
        raise ValueError(f"{name} must be {wanted}, but is {shown if len(shown) <= 60 else shown[:57] + '...'}")
