"""Settings of data sets, methods and benchmarks, and the table of methods. Reads files only: quick to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

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
