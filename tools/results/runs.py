"""Runs on disk: their ``metrics.json`` and ``config.yaml``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from configs import ROOT as CONFIGS
from configs import methods
from configs.runs import RunSpec
from configs.worlds import stem
from dassl.config import flatten_cfg
from dassl.utils import read_json

from . import family
from .checks import MAPPING, PATH, check_run, require

PRINTED = {name: row.printed for name, row in methods().items()}
ZERO_SHOT = [row.printed for row in methods().values() if row.zero_shot]


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    method: as papers print it. setting: name of its settings and what differs from them; of a zero-shot run the
    template that took the place of the data set's own. classes: all | base | new. shots: images per class that the
    prompts were trained on; 0: zero-shot; -1: all images. model_dir: folder an evaluation loaded its prompts from;
    source: the data set they were trained on ("": unknown). results: what the evaluator found on the ``split``.
    config: leaves of the run's configuration. module: of a method outside the tree. cost: learned parameters, seconds
    of training and of the test, gigabytes of memory, as far as they are on record.
    """

    folder: Path
    method: str
    setting: str
    backbone: str
    dataset: str
    classes: str
    shots: int
    seed: int
    eval_only: bool
    finished: str
    model_dir: str
    results: dict[str, Any] = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    source: str = ""
    module: str = ""
    split: str = "test"
    cost: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def accuracy(self) -> float:
        return self.results["accuracy"]

    @property
    def zero_shot(self) -> bool:
        return self.method in ZERO_SHOT

    def command(self) -> str:
        """The command that makes this run again, from its recorded configuration."""
        words = ["python", "train.py", "--config-file", str(self.folder / "config.yaml")]
        if self.module:
            words[2:2] = ["--import", self.module]
        if (CONFIGS / f"datasets/{self.dataset}.yaml").is_file():
            words[2:2] = ["--dataset-config-file", f"configs/datasets/{self.dataset}.yaml"]
        if self.eval_only and not self.zero_shot:
            words += ["--eval-only", "--model-dir", self.model_dir or "MODEL_DIR"]
        return shlex.join(words)


def warn(message: str) -> None:
    print(f"warning: {' '.join(message.split())}", file=sys.stderr)


def read_runs(paths: Iterable[Path], split: str = "test") -> list[Run]:
    """All runs below ``paths`` that were evaluated on the split; what they are is on record, not in their paths.

    Broken and unfinished runs are left out with a warning. ``FileNotFoundError`` if no run is left.
    """
    runs: dict[Path, Run] = {}
    for root in paths:
        for file in sorted(root.rglob("metrics.json")):
            if run := _read_run(file.parent, split):
                runs.setdefault(file.parent.resolve(), run)
    if not runs:
        raise FileNotFoundError(
            f"no usable metrics.json below {', '.join(map(str, paths))}: a run writes one into its OUTPUT_DIR when it "
            "has been evaluated; give the folder that holds the runs, such as output"
        )
    return list(runs.values())


def _read_run(folder: Path, split: str) -> Run | None:
    """``None``, after a warning, if the files are broken or hold no result of the split."""
    try:
        metrics = read_json(str(folder / "metrics.json"))
        require(metrics, "the record", MAPPING)
        require(metrics.get("results"), "results", MAPPING)
        results = metrics["results"].get(split)
        if results is None or metrics.get("status") == "running":
            return warn(f"{folder} is left out: not finished, or not evaluated on the {split} split")
        return _make_run(folder, metrics, results, split)
    except (ValueError, OSError) as error:
        return warn(f'"{folder / "metrics.json"}" is broken and left out: {error}')


def _make_run(folder: Path, metrics: dict[str, Any], results: dict[str, Any], split: str) -> Run:
    check_run(metrics, results)
    config = _read_config(folder)
    spec = _spec(folder, metrics, config)
    method = PRINTED.get(spec.method, spec.method)
    zero_shot = method in ZERO_SHOT
    return Run(
        folder=folder,
        method=method,
        setting=config.get("DATASET.TEMPLATE", "") if zero_shot else spec.name,
        backbone=metrics["backbone"],
        dataset=spec.dataset,
        classes=spec.classes,
        shots=0 if zero_shot else spec.shots if spec.shots >= 1 else -1,
        seed=spec.seed,
        eval_only=spec.evaluation,
        finished=metrics.get("finished", ""),
        model_dir=metrics.get("model_dir") or "",
        results=results,
        history=metrics.get("history", []),
        config=config,
        source=spec.source,
        module="" if spec.method in PRINTED else metrics.get("trainer_module", ""),
        split=split,
        cost=_cost(metrics),
    )


def _spec(folder: Path, metrics: dict[str, Any], config: dict[str, Any]) -> RunSpec:
    """As recorded; of a trainer that the family's own code started, by what the engine records, and by its folders."""
    if metrics.get("run"):
        spec = RunSpec.of_record(metrics["run"])
    else:
        require(config.get("DATASET.PATH", ""), "DATASET.PATH", PATH)
        spec = RunSpec(
            method=metrics["trainer"],
            dataset=stem(metrics["dataset"], config.get("DATASET.PATH") or ""),
            classes=metrics["subsample_classes"],
            shots=metrics["num_shots"],
            seed=metrics["seed"],
            evaluation=metrics["eval_only"],
        )
        spec = family.with_settings(spec, folder)
    return spec if spec.source or not spec.evaluation else family.with_source(spec, metrics.get("model_dir") or "")


def _cost(metrics: dict[str, Any]) -> dict[str, float]:
    seconds = metrics.get("seconds", {})
    found = {
        "parameters": metrics.get("trainable_parameters"),
        "training s": seconds.get("train"),
        "test s": seconds.get("test"),
        "memory GB": metrics.get("peak_memory_gb"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        return flatten_cfg(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f'"{path}" is no valid config: {error}') from error
