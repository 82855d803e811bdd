"""Runs on disk: ``metrics.json`` and ``config.yaml``, and which run an evaluation belongs to."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from configs import ROOT as CONFIGS
from configs import methods
from dassl.config import flatten_cfg, load_yaml
from dassl.utils import read_json

from .checks import INTEGER, MAPPING, NAME, PATH, check_run, require

PRINTED = {name: row.printed for name, row in methods().items()}
ZERO_SHOT = [row.printed for row in methods().values() if row.zero_shot]
_SHARED_WITH_ORIGIN = ("method", "setting", "shots", "seed", "backbone")
SOURCES = ("imagenet_21k", "imagenet", "tiny_source")  # what prompts are usually transferred from

# The family's folders: they name the settings, and tell the rest of what nothing is recorded.
_SHOTS = r"(?P<setting>[^/]+)_(?P<shots>\d+)shots(?P<extra>(?:/[^/]+)*?)"
_METHOD, _SEED = r"(?P<method>[^/]+)", r"seed(?P<seed>\d+)"
LAYOUTS = (
    rf"base2new/[^/]+/(?P<dataset>[^/]+)/shots_(?P<shots>\d+)/{_METHOD}/(?P<setting>.+)/{_SEED}",
    rf"evaluation/{_METHOD}/{_SHOTS}/(?P<dataset>[^/]+)/{_SEED}",
    rf"(?P<dataset>[^/]+)/{_METHOD}/{_SHOTS}/{_SEED}",
)


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    setting: the config's name by the folder layout; for a run made by hand, its folder without seed, method, data set;
    of a zero-shot run the template that took the place of the data set's own.
    classes: all | base | new. shots: images per class; 0: zero-shot; -1: all images.
    model_dir: folder an evaluation loaded its prompts from; source: the data set they were trained on ("": unknown).
    results: what the evaluator found on the ``split``. config: leaves of the configuration that trained the prompts.
    module: of a method outside the tree.
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
    """All runs below ``paths`` that were evaluated on the split, evaluations linked to the run they loaded.

    Broken and unfinished runs are left out with a warning; a record counts, not what its folder is called, and one
    warning tells where the two differ. ``FileNotFoundError`` if no run is left.
    """
    runs: dict[Path, Run] = {}
    for root in paths:
        for file in sorted(root.rglob("metrics.json")):
            if run := _read_run(file.parent, root, split):
                runs.setdefault(file.parent.resolve(), run)
    if not runs:
        raise FileNotFoundError(
            f"no usable metrics.json below {', '.join(map(str, paths))}: a run writes one into its OUTPUT_DIR when it "
            "has been evaluated; give the folder that holds the runs, such as output"
        )
    linked = list(_link(runs))
    if different := [text for run in linked if (text := _contradiction(run))]:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        warn(f"folders whose names contradict what is recorded in them, which counts: {different[0]}{more}")
    return linked


def _contradiction(run: Run) -> str:
    """What the family's folder layout tells of a run otherwise than its record; "" if nothing."""
    told = parse_layout(run.folder)
    names = {"method": PRINTED.get(told.get("method", ""), told.get("method"))}
    names["data set"] = _dataset_stems().get(told.get("dataset", ""), told.get("dataset"))
    known = {*PRINTED, *PRINTED.values(), *_dataset_stems().values()}  # others are somebody's own folders
    recorded = {"method": run.method, "data set": run.dataset, "seed": str(run.seed), "shots": str(run.shots)}
    found = {what: name for what, name in names.items() if name in known}
    if told:
        found |= {"seed": told["seed"]} | ({} if run.zero_shot else {"shots": told["shots"]})
    words = [
        f"{f'{name} shots' if what == 'shots' else f'{what} {name}'}, but the record says {recorded[what]}"
        for what, name in found.items()
        if name != recorded[what]
    ]
    return f"{run.folder} says {'; '.join(words)}" if words else ""


def _read_run(folder: Path, root: Path, split: str) -> Run | None:
    """``None``, after a warning, if the files are broken or hold no result of the split."""
    try:
        metrics = read_json(str(folder / "metrics.json"))
        require(metrics, "the record", MAPPING)
        require(metrics.get("results"), "results", MAPPING)
        results = metrics["results"].get(split)
        if results is None or metrics.get("status") == "running":
            return warn(f"{folder} is left out: not finished, or not evaluated on the {split} split")
        return replace(_make_run(folder, root, metrics, results), split=split)
    except (ValueError, OSError) as error:
        return warn(f'"{folder / "metrics.json"}" is broken and left out: {error}')


def _make_run(folder: Path, root: Path, metrics: dict[str, Any], results: dict[str, Any]) -> Run:
    check_run(metrics, results)
    method = PRINTED.get(metrics["trainer"], metrics["trainer"])
    zero_shot, place = method in ZERO_SHOT, parse_layout(folder)
    config = _read_config(folder)
    dataset = _dataset_name(metrics["dataset"], config)
    return Run(
        folder=folder,
        method=method,
        setting=config.get("DATASET.TEMPLATE", "")
        if zero_shot
        else place.get("setting") or _setting_by_hand(folder, root, method, dataset),
        backbone=metrics["backbone"],
        dataset=dataset,
        classes=metrics["subsample_classes"],
        shots=0 if zero_shot else _shots(metrics, place),
        seed=metrics["seed"],
        eval_only=metrics["eval_only"],
        finished=metrics.get("finished", ""),
        model_dir=metrics.get("model_dir") or "",
        results=results,
        history=metrics.get("history", []),
        config=config,
        module="" if metrics["trainer"] in PRINTED else metrics.get("trainer_module", ""),
    )


def _shots(metrics: dict[str, Any], place: dict[str, str]) -> int:
    """As recorded. An evaluation on all images does not say how many its prompts were trained on: its folder may."""
    if metrics["num_shots"] >= 1:
        return metrics["num_shots"]
    return int(place.get("shots", -1)) if metrics["eval_only"] else -1


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        return flatten_cfg(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f'"{path}" is no valid config: {error}') from error


def parse_layout(folder: Path | str) -> dict[str, str]:
    """``dataset``, ``setting`` and ``shots`` as the family's folder layout tells them; empty for other folders."""
    path = Path(folder).resolve().as_posix()
    for layout in LAYOUTS:
        if match := re.search(f"/{layout}$", path):
            found = match.groupdict()
            return {**found, "setting": found["setting"] + (found.get("extra") or "")}
    return {}


def _setting_by_hand(folder: Path, root: Path, method: str, dataset: str) -> str:
    parts = folder.relative_to(root).parts or (folder.name,)
    names = (re.sub(r"[-_]?seed[-_]?\d+$", "", part) for part in parts)
    return "/".join(name for name in names if name and name not in (method, dataset))


@cache
def _dataset_stems() -> dict[str, str]:
    """Registered name of a data set to the stem of its config file, which is how papers' tables and folders call it."""
    files = (CONFIGS / "datasets").glob("*.yaml")
    return {load_yaml(file)["DATASET"]["NAME"]: file.stem for file in files}


def _dataset_name(registered: str, config: dict[str, Any]) -> str:
    own_images = config.get("DATASET.PATH", "")
    require(own_images, "DATASET.PATH", PATH)
    return Path(own_images).stem if own_images else _dataset_stems().get(registered, registered)


def _link(runs: dict[Path, Run]) -> Iterator[Run]:
    """Give every evaluation the setting, shots, configuration and source of the run whose prompts it loaded."""
    trained = [run for run in runs.values() if not run.eval_only]
    for run in runs.values():
        if not run.eval_only or run.zero_shot:
            yield run
        elif origin := (run.model_dir and runs.get(Path(run.model_dir).resolve())) or _origin_by_layout(run, trained):
            yield replace(
                run,
                setting=origin.setting,
                shots=origin.shots,
                config=origin.config or run.config,
                source=origin.dataset,
                model_dir=run.model_dir or str(origin.folder),
            )
        else:
            yield _with_recorded_training(run) or replace(run, source=parse_layout(run.model_dir).get("dataset", ""))


def _with_recorded_training(run: Run) -> Run | None:
    """An evaluation with what the folder it loaded from has on record; ``None`` if that is gone, or nothing usable."""
    try:
        config = _read_config(Path(run.model_dir)) if run.model_dir else {}
        require(config.get("DATASET.NAME"), "DATASET.NAME", NAME)
        require(config.get("DATASET.NUM_SHOTS"), "DATASET.NUM_SHOTS", INTEGER)
    except (ValueError, OSError):
        return None
    shots = config["DATASET.NUM_SHOTS"] if config["DATASET.NUM_SHOTS"] >= 1 else -1
    return replace(run, shots=shots, config=config, source=_dataset_name(config["DATASET.NAME"], config))


def _origin_by_layout(run: Run, trained: list[Run]) -> Run | None:
    """The training run that the folder layout puts beside an evaluation which does not say what it loaded."""
    if run.model_dir or not parse_layout(run.folder):
        return None

    def fits(other: Run) -> bool:
        same = all(getattr(run, name) == getattr(other, name) for name in _SHARED_WITH_ORIGIN)
        if run.classes == "all":
            return same and other.classes == "all"
        return same and other.classes == "base" and other.dataset == run.dataset

    beside = {other.dataset: other for other in trained if fits(other)}
    known = [beside[dataset] for dataset in SOURCES if dataset in beside]
    return known[0] if known else next(iter(beside.values())) if len(beside) == 1 else None
