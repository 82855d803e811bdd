"""What should be found: of published weights and data sets, of the embedded world, or as a file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from clip.clip import published_sha256
from configs import ROOT as CONFIGS
from configs import Row, methods
from dassl.config import load_yaml
from dassl.utils import read_json, reading
from tools.data.verify import FINGERPRINTS
from tools.results import published

EMBEDDED = Path(__file__).with_name("embedded.json")
# Where a printed number is looked for, in this order; they are the same zero-shot and source runs.
PROTOCOLS = ("xd", "dg", "pretrain", "fewshot")
PRETRAINING = ("imagenet_21k",)


class Accuracy(NamedTuple):
    """In percent of a data set's test images. source: who says so."""

    value: float
    source: str


@dataclass(frozen=True)
class Expected:
    """backbone: its name; "" for a file alone. settings: stem of the settings files of all methods; "": each method's
    usual ones. sha256: of the weights file, tensors: of each tensor, as far as known. datasets: what is known of each,
    by registry name, as in ``tools/data/fingerprints.json``. accuracies: by method, then by stem of the data set's
    file; of a method that learns, on what its prompts were trained on."""

    backbone: str
    settings: str = ""
    sha256: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    accuracies: Mapping[str, Mapping[str, Accuracy]] = field(default_factory=dict)

    def settings_file(self, row: Row, protocol: str, dataset: str, shots: int = 16) -> Path:
        """The method's settings for a protocol; ``ValueError`` if it has none."""
        stem = self.settings or row.recipe(protocol, dataset, shots)
        path = CONFIGS / "trainers" / (row.name if self.settings else row.settings) / f"{stem}.yaml"
        if not stem or not path.is_file():
            raise ValueError(f"there are no settings of {row.name} for {protocol}")
        return path


def protocol_of(source: str) -> str:
    """The protocol whose prompts are trained on all classes of a data set."""
    return "pretrain" if source in PRETRAINING else "xd"


def of_published(backbone: str) -> Expected:
    """What papers print for a backbone, and what is known of its file and of the data sets."""
    rows = {row.printed: row for row in methods().values()}
    found: dict[str, dict[str, Accuracy]] = {}
    printed = [one for one in published.load() if one.protocol in PROTOCOLS and one.method in rows]
    for one in sorted(printed, key=lambda one: PROTOCOLS.index(one.protocol)):
        row = rows[one.method]
        if (one.backbone, one.metric) != (backbone, "accuracy") or one.dataset == "average":
            continue
        is_home = one.dataset == one.source_dataset and row.recipe(protocol_of(one.dataset), one.dataset, 16)
        if is_home or (row.zero_shot and one.shots in ("", "0")):
            found.setdefault(row.name, {}).setdefault(one.dataset, Accuracy(one.value, one.source))
    return Expected(backbone, "", published_sha256(backbone), {}, read_json(str(FINGERPRINTS)), found)


def read(path: Path) -> Expected:
    """An expectation file (``docs/reproduce.md``); ``ValueError`` if it is none."""
    content = read_json(str(path))
    with reading(str(path), "a file of what is expected"):
        accuracies = {
            method: {dataset: Accuracy(float(value), path.name) for dataset, value in values.items()}
            for method, values in content.pop("accuracies", {}).items()
        }
        if unknown := sorted(accuracies.keys() - methods().keys()):
            raise ValueError(f"there is no method {unknown[0]}")
        return Expected(**content, accuracies=accuracies)


@cache
def stems() -> dict[str, str]:
    """Stem of the settings file of each data set, by registry name."""
    paths = sorted((CONFIGS / "datasets").glob("*.yaml"))
    return {load_yaml(path)["DATASET"]["NAME"]: path.stem for path in paths}
