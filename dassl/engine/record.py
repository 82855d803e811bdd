"""What a run leaves behind besides its log and checkpoints: ``config.yaml`` and ``metrics.json``."""

import datetime
import os
import platform
import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
import yaml
from yacs.config import CfgNode

from dassl.config import changes_results, flatten_cfg, read_yaml
from dassl.data.datasets import DatasetBase, fewshot_hash
from dassl.ranks import current
from dassl.utils import atomic_write, read_json, write_json

__all__ = ["RunRecord", "recorded_config"]

# What makes the number of images in a step.
_BATCH = ("DATALOADER.TRAIN_X.BATCH_SIZE", "NUM_RANKS", "OPTIM.ACCUM_STEPS", "OPTIM.GLOBAL_BATCH")


def recorded_config(directory: str) -> dict[str, Any]:
    """Leaves by dotted key of the ``config.yaml`` in ``directory``; {} if there is none, ``ValueError`` if broken."""
    path = os.path.join(directory, "config.yaml")
    if not os.path.isfile(path):
        return {}
    try:
        leaves = flatten_cfg(read_yaml(path))
        if not leaves:
            raise ValueError(f'"{path}" is empty')
    except ValueError as error:
        raise ValueError(f"{error}; it tells which run this is: restore it, or take another folder") from error
    return leaves


def images_a_step(leaves: dict[str, Any]) -> int | None:
    """Of all processes of a recorded run; None if its record does not tell."""
    size, ranks, passes, total = (leaves.get(key, default) for key, default in zip(_BATCH, (None, 1, 0, 0)))
    return total or (size and ranks * size * (passes or 1))


class RunRecord:
    """The history and results of one run.

    history: one dict per finished epoch: ``epoch`` (from 1), averages of the named losses, ``lr``, ``seconds``.
    results: what the evaluator found, by split. run: what the caller knows of the run (JSON).
    """

    def __init__(self, cfg: CfgNode, run_seed: int) -> None:
        self.cfg = cfg.clone()
        self.cfg.defrost()
        self.cfg.SEED, self.cfg.NUM_RANKS = run_seed, current().size
        self.history: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.test_seconds = 0.0
        self.run: dict[str, Any] = {}

    def write_config(self) -> None:
        """Write ``config.yaml``: the resolved options, with the seed that is really used."""
        with atomic_write(os.path.join(self.cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
            file.write(self.cfg.dump())

    def check_same_config(self, directory: str) -> None:
        """``ValueError`` with the differences if ``directory`` holds a run of another configuration."""
        self._refuse(directory, self._differences(directory))

    def check_folder(self, is_evaluation: bool, model_dir: str = "", epoch: int | None = None) -> None:
        """``ValueError`` with the differences if the output folder holds another run, which this one would overwrite.

        model_dir, epoch: what an evaluation loads. The same run again is fine: it goes on, or evaluates once more.
        """
        directory = self.cfg.OUTPUT_DIR
        if not recorded_config(directory):
            return
        path = os.path.join(directory, "metrics.json")
        metrics = read_json(path) if os.path.isfile(path) else {}
        if not isinstance(metrics, dict):
            raise ValueError(f'"{path}" is not the record of a run; remove it, or choose another folder')
        is_finished = metrics.get("status") == "finished"
        differences = self._differences(directory, ("TEST.NO_TEST", "TEST.SPLIT") if is_finished else (), is_evaluation)
        was_evaluation, loaded = metrics.get("eval_only", False), metrics.get("model_dir", "")
        if is_evaluation and not was_evaluation:
            differences.append("  a training run there, an evaluation now")
        elif was_evaluation and loaded and not is_evaluation:
            differences.append("  an evaluation there, a training run now")
        elif was_evaluation and loaded and model_dir and os.path.abspath(loaded) != os.path.abspath(model_dir):
            differences.append(f"  evaluated prompts: {loaded} there, {model_dir} now")
        elif was_evaluation and loaded and epoch is not None and metrics["epoch"] != epoch:
            differences.append(f"  evaluated epoch: {metrics['epoch']} there, {epoch} now")
        self._refuse(directory, differences)

    def _differences(self, directory: str, but: Sequence[str] = (), evaluates: bool = False) -> list[str]:
        """A line for each option with another value than in ``directory``; of the harmless ones only those in but.

        How a step's images are shared out among processes and passes is harmless, their number in a training is not.
        """
        old, new = recorded_config(directory), flatten_cfg(yaml.safe_load(self.cfg.dump()))
        there, now = images_a_step(old), images_a_step(new)
        lines = [] if evaluates or there in (None, now) else [f"  images a step: {there} there, {now} now"]
        return lines + [
            f"  {key}: {old[key]} there, {new[key]} now"
            for key in sorted(old.keys() & new.keys())
            if old[key] != new[key]
            and (lines if key in _BATCH else key in (*but, *self._selecting()) or changes_results(key))
        ]

    def _selecting(self) -> tuple[str, ...]:
        """Options that say which epoch is kept."""
        return ("TEST.NO_TEST", "TEST.SPLIT") if self.cfg.TEST.FINAL_MODEL == "best_val" else ()

    def _refuse(self, directory: str, differences: list[str]) -> None:
        if differences:
            raise ValueError(
                f'"{directory}" holds a run of another configuration, which cannot be resumed with this one:\n'
                + "\n".join(differences)
                + "\nChoose another OUTPUT_DIR, or restore these settings, or remove that folder"
            )

    def data_facts(self, dataset: DatasetBase) -> dict[str, Any]:
        """Class names, wording and sizes of a data set, and which images the few shots are."""
        few = self.cfg.DATASET.NUM_SHOTS >= 1
        return {
            "classnames": list(dataset.classnames),
            "template": dataset.template,
            "templates": list(dataset.templates),
            "fewshot_hash": fewshot_hash(dataset.train_x, self.cfg.DATASET.ROOT) if few else None,
            "num_train": len(dataset.train_x or ()),
            "num_val": len(dataset.val or ()),
            "num_test": len(dataset.test or ()),
        }

    def write_metrics(self, facts: dict[str, Any], device: torch.device) -> None:
        """Write ``metrics.json``: ``facts``, then what the record itself knows."""
        cfg = self.cfg
        metrics = {
            "trainer": cfg.TRAINER.NAME,
            "dataset": cfg.DATASET.NAME,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "seed": cfg.SEED,
            "num_shots": cfg.DATASET.NUM_SHOTS,
            "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "world_size": cfg.NUM_RANKS,
            "run": self.run,
            **facts,
            "results": self.results,
            "history": self.history,
            "seconds": {"train": sum(epoch["seconds"] for epoch in self.history), "test": self.test_seconds},
            "peak_memory_gb": peak_memory_gb(device),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        write_json(metrics, os.path.join(cfg.OUTPUT_DIR, "metrics.json"))


def peak_memory_gb(device: torch.device) -> float:
    """Largest memory so far: of the GPU's tensors, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
