"""Settings of data sets, methods and benchmarks, and the table of methods. Reads files only: quick to import."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from dassl.utils.registry import nearest_names

ROOT = Path(__file__).resolve().parent


def settings_file(path: str | Path) -> str:
    """A settings file by the name people give it: their own, or ``configs/...`` of this package from any folder."""
    ours = ROOT.parent / path
    if Path(path).parts[:1] == (ROOT.name,) and ours.is_file() and not Path(path).exists():
        return str(ours)
    return str(path)


@dataclass(frozen=True)
class Row:
    """A method's row of ``methods.yaml``, which says what the columns mean."""

    name: str
    file: str
    paper: str = ""
    printed: str = ""  # methods() fills it and settings in, with the method's own name
    settings: str = ""
    zero_shot: bool = False
    training_free: bool = False
    recipes: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """Whether there are steps of training."""
        return not (self.zero_shot or self.training_free)

    def recipe(self, protocol: str, dataset: str, shots: int) -> str:
        """Stem of the usual settings for a protocol, "" if there are none."""
        chosen = self.recipes.get(protocol, "")
        if isinstance(chosen, str):
            return chosen
        return next((chosen[key] for key in (dataset, f"{shots} shots", "other") if key in chosen), "")


@cache
def methods() -> dict[str, Row]:
    """The table by name."""
    content = yaml.safe_load((ROOT / "methods.yaml").read_text(encoding="utf-8"))
    return {name: Row(name, **{"printed": name, "settings": name, **row}) for name, row in content.items()}


def is_path(config: str) -> bool:
    """Whether settings are named by the path of a file, not by the stem of one in configs/trainers."""
    return config.endswith(".yaml")


def settings_of(method: str) -> list[str]:
    """Names of the method's settings in the tree; ``ValueError`` if it has none there."""
    if not (names := sorted(path.stem for path in (ROOT / "trainers" / method).glob("*.yaml"))):
        raise ValueError(f"{method} has no settings in configs/trainers: give CFG, the path of a yaml")
    return names


def config_file(method: str, config: str) -> str:
    """Path of the method's settings: its own, or those of the method that shares them."""
    if is_path(config):
        if not Path(config).is_file():
            raise FileNotFoundError(f"no settings (CFG) {config}")
        return config
    folder = method if config in settings_of(method) else methods()[method].settings
    if config not in settings_of(folder):
        raise ValueError(unknown(f"settings (CFG) of {method}", config, settings_of(folder)))
    return os.path.relpath(ROOT / "trainers" / folder / f"{config}.yaml")


def dataset_file(dataset: str) -> str:
    """Path of a data set's settings by the stem."""
    path = ROOT / "datasets" / f"{dataset}.yaml"
    if not path.is_file():
        raise ValueError(unknown("data set", dataset, [file.stem for file in path.parent.glob("*.yaml")]))
    return os.path.relpath(path)


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """The line for a name that is not there, with the nearest that are."""
    near = nearest_names(name, known)
    return f"unknown {what} {name!r}; " + (f"did you mean {', '.join(near)}?" if near else f"known: {sorted(known)}")
