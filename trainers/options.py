"""A method's options: a frozen dataclass whose fields are the keys of its yaml section, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from clip.weights import PRECISIONS

Kind = TypeVar("Kind")


def option(
    default: Any, *, choices: Sequence[object] = (), least: float | None = None, above: float | None = None
) -> Any:
    """A field with its default, and what its values must be: one of ``choices``, at least, or larger than a number."""
    return field(default=default, metadata={"choices": tuple(choices), "least": least, "above": above})


@dataclass(frozen=True)
class Options:
    """What every method has. A method's own class derives from this one; a nested dataclass is a nested section."""

    PREC: str = option("fp16", choices=PRECISIONS)  # of the frozen CLIP; what is learned is fp32 always


def defaults(kind: type[Options]) -> dict[str, object]:
    """The yaml section with its default values."""
    return asdict(kind())


def read_options(kind: type[Kind], section: Mapping[str, Any], where: str) -> Kind:
    """An object of ``kind`` from a section of the config tree, checked; ``where`` is the section's name in errors."""
    values = {
        one.name: read_options(type(one.default), section[one.name], f"{where}.{one.name}")
        if is_dataclass(one.default)
        else section[one.name]
        for one in fields(kind)
    }
    options = kind(**values)
    check_options(options, where)
    return options


def check_options(options: object, where: str) -> None:
    """ValueError naming ``<where>.<key>`` for a value of another type than the default's, or beyond its limits."""
    for one in fields(options):
        value, name = getattr(options, one.name), f"{where}.{one.name}"
        if is_dataclass(value):
            check_options(value, name)
        else:
            check_value(one, value, name)
    if hasattr(options, "check"):  # what no limit of a single key can say
        options.check(where)


def check_value(one: Field, value: object, name: str) -> None:
    kind = type(one.default)
    if one.default is not MISSING and type(value) not in ((float, int) if kind is float else (kind,)):
        raise ValueError(f"{name} must be of type {kind.__name__}, but is {value!r}")
    limits = {"choices": (), "least": None, "above": None} | one.metadata
    if limits["choices"] and value not in limits["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(map(str, limits['choices']))}, but is {value!r}")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, but is {value}")
    if limits["least"] is not None and value < limits["least"]:
        raise ValueError(f"{name} must be {limits['least']} or more, but is {value}")
    if limits["above"] is not None and value <= limits["above"]:
        raise ValueError(f"{name} must be larger than {limits['above']}, but is {value}")
