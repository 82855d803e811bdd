"""Data sets by name and by group: those of papers, and the embedded ones. Reads files only: quick to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from . import ROOT


@dataclass(frozen=True)
class World:
    """Data sets that benchmarks are made of; ``datasets/groups.yaml`` says what the groups are for."""

    source: str
    source_shots: int
    pretraining: str
    targets: tuple[str, ...]
    shifts: tuple[str, ...]
    others: tuple[str, ...] = ()
    development: tuple[str, ...] = ()
    printed: Mapping[str, str] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those of base-to-new and few-shot tables."""
        return (self.source, *self.targets, *self.others)

    def __contains__(self, dataset: str) -> bool:
        return dataset in (self.pretraining, *self.datasets, *self.shifts, *self.development)


def _world(groups: Mapping[str, object]) -> World:
    return World(**{name: tuple(group) if isinstance(group, list) else group for name, group in groups.items()})


_FILE = ROOT.parent / "datasets" / "groups.yaml"
WORLDS = {name: _world(groups) for name, groups in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items()}
REAL, EMBEDDED = WORLDS["real"], WORLDS["embedded"]


@cache
def stems() -> dict[str, str]:
    """Registered name of a data set to the stem of its file in configs/datasets, which tables and folders show."""
    files = sorted((ROOT / "datasets").glob("*.yaml"))
    return {yaml.safe_load(file.read_text(encoding="utf-8"))["DATASET"]["NAME"]: file.stem for file in files}


def stem(registered: str, own_images: str = "") -> str:
    """What tables and folders call a data set; somebody's own images (``DATASET.PATH``) by their path."""
    return Path(own_images).stem if own_images else stems().get(registered, registered)


def printed(dataset: str) -> str:
    """The name in figures and LaTeX; a data set that papers do not know keeps its own."""
    return next((world.printed[dataset] for world in WORLDS.values() if dataset in world.printed), dataset)
