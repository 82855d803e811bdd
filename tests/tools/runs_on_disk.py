"""Runs as the engine leaves them, made up."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.worlds import stem
from tools.results.__main__ import main
from tools.results.runs import read_runs
from tools.results.tables import Table, build

MAPLE = {"TRAINER": {"MAPLE": {"N_CTX": 2, "PROMPT_DEPTH": 9, "UNIFIED": False}}}  # as published
STEMS = {"DescribableTextures": "dtd", "EuroSAT": "eurosat", "ImageNet": "imagenet", "Caltech101": "caltech101"}


def make_run(folder: Path, accuracy: float, config: dict[str, Any] | None = None, **facts: Any) -> Path:
    """Write ``metrics.json`` and ``config.yaml``; ``facts`` are entries of the former, or of the ``run`` in it.

    Seed and settings, for tests' convenience, from the folder's name.
    """
    metrics = {
        "trainer": "MaPLe",
        "dataset": "DescribableTextures",
        "backbone": "ViT-B/16",
        "seed": int(folder.name[4:]) if folder.name.startswith("seed") else 1,
        "num_shots": 16,
        "subsample_classes": "all",
        "eval_only": False,
        "history": [],
        "finished": "2024-01-01T00:00:00+00:00",
        "status": "finished",
        **facts,
    }
    test = {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": accuracy - 1, "total": 100}
    metrics.setdefault("results", {"test": {**test, "per_class": facts.pop("per_class", [])}})
    metrics.pop("per_class", None)
    metrics.setdefault("run", run_of(folder, metrics))
    for name in ("settings", "variant", "source"):
        metrics.pop(name, None)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text(yaml.safe_dump(MAPLE if config is None else config))
    return folder


def run_of(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """What ``train.py`` would record of such a run."""
    dataset = stem(metrics["dataset"])
    places = [
        part for part in folder.parts if not part.startswith("seed") and part not in (dataset, metrics["dataset"])
    ]
    trained = Path(metrics.get("model_dir") or "") / "metrics.json"
    told = json.loads(trained.read_text())["run"] if trained.is_file() else {}
    return {
        "method": metrics["trainer"],
        "dataset": dataset,
        "classes": metrics["subsample_classes"],
        "settings": metrics.get("settings", told.get("settings", re.sub(r"_\d+shots$", "", places[-1]))),
        "variant": metrics.get("variant", ""),
        "shots": told.get("shots", metrics["num_shots"]),
        "seed": metrics["seed"],
        "source": metrics.get("source", told.get("dataset", dataset if metrics["subsample_classes"] == "new" else "")),
        "evaluation": metrics["eval_only"],
    }


def make_pair(root: Path, base: float, new: float, seed: int = 1, **facts: Any) -> None:
    """A base-to-new training run and its evaluation on the new classes, in the family's folders."""
    dataset = STEMS[facts.get("dataset", "DescribableTextures")]
    method, setting = facts.get("trainer", "MaPLe"), facts.pop("setting", "vit_b16_c2_ep5_batch4_2ctx")
    place = f"{dataset}/shots_16/{method}/{setting}/seed{seed}"
    trained = make_run(root / "base2new/train_base" / place, base, subsample_classes="base", **facts)
    facts = {**facts, "subsample_classes": "new", "eval_only": True, "model_dir": str(trained)}
    make_run(root / "base2new/test_new" / place, new, **facts)


def classes(*accuracies: float) -> list[dict[str, Any]]:
    """What the evaluator records of each class."""
    return [{"label": number, "classname": f"c{number}", "accuracy": one} for number, one in enumerate(accuracies)]


def table_of(root: Path, protocol: str) -> Table:
    """The one table of this protocol that the runs below ``root`` make."""
    (table,) = [table for table in build(read_runs([root])) if table.protocol == protocol]
    return table


def records(capsys: pytest.CaptureFixture, *arguments: object) -> list[dict[str, Any]]:
    """What ``python -m tools.results`` prints as JSON."""
    assert main([*map(str, arguments), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)
