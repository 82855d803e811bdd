"""What a run is: told to ``train.py``, written into the run's record, read by tables. Nothing is guessed from paths."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dassl.config import changes_results

from . import config_file, dataset_file, methods

# Options that other fields of a run tell.
_TOLD = ("DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.PATH", "DATASET.SUBSAMPLE_CLASSES", "SEED", "TRAINER.NAME")
_START = "TRAINER.INIT_PROMPTS"
_LONGEST = 120  # characters: folders are named after it
CLASSES = ("all", "base", "new")
_KINDS = {"shots": (int, "a whole number"), "seed": (int, "a whole number"), "evaluation": (bool, "true or false")}


@dataclass(frozen=True)
class RunSpec:
    """One training, or one evaluation of what was trained, apart from where and how fast it is carried out.

    dataset: stem of its file in configs/datasets, or of the path of somebody's own images. classes: all | base | new.
    settings: name of the method's settings file; variant: of the options in which the run differs from it, such as
    ``prompt_depth_3``. shots: images per class that are trained on; -1: all. start: prompts that the training started
    from ("": the method's own start). evaluation: nothing is trained; settings, variant, shots and start are those of
    the training, and source is its data set ("": unknown, or nothing was trained).
    """

    method: str
    dataset: str
    classes: str = "all"
    settings: str = ""
    variant: str = ""
    shots: int = -1
    seed: int = 1
    source: str = ""
    start: str = ""
    evaluation: bool = False

    @property
    def name(self) -> str:
        """Of everything that was chosen, as tables and folders show it."""
        return "-".join(filter(None, (self.settings, self.variant, "pretrained" if self.start else "")))

    def folder(self, out: str = "output") -> str:
        """Below ``out``, as the family lays its folders out."""
        last = f"seed{self.seed}"
        if self.classes != "all":
            part = f"test_{self.classes}" if self.evaluation else "train_base"
            return f"{out}/base2new/{part}/{self.dataset}/shots_{self.shots}/{self.method}/{self.name}/{last}"
        if is_zero_shot(self.method):
            return f"{out}/{self.method}/{self.name}/{self.dataset}"
        settings = f"{self.name}_{self.shots}shots" if self.shots > 0 else f"{self.name}_all"
        if self.evaluation:
            return f"{out}/evaluation/{self.method}/{settings}/{self.dataset}/{last}"
        return f"{out}/{self.dataset}/{self.method}/{settings}/{last}"

    def argv(self, config: str = "", *flags: str) -> tuple[str, ...]:
        """What ``train.py`` is told of it. config: path of the settings, if they are not the method's in configs/."""
        words = [
            "--seed",
            str(self.seed),
            "--trainer",
            self.method,
            "--dataset-config-file",
            dataset_file(self.dataset),
        ]
        words += ["--config-file", config_file(self.method, config or self.settings), "--variant", self.variant, *flags]
        words += ["--eval-only"] if self.evaluation else []
        if not self.evaluation or self.classes != "all":
            words += ["DATASET.NUM_SHOTS", str(self.shots)]
        if self.classes != "all":
            words += ["DATASET.SUBSAMPLE_CLASSES", self.classes]
        if self.start and not self.evaluation:
            words += [_START, self.start]
        return tuple(words)

    def record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_record(cls, found: Mapping[str, Any]) -> RunSpec:
        """From a record, what later versions may add left out; ``ValueError`` for an entry that cannot be."""
        known = {part.name: found[part.name] for part in fields(cls) if part.name in found}
        for name, value in known.items():
            kind, wanted = _KINDS.get(name, (str, "a text"))
            if type(value) is not kind or "\0" in str(value):
                raise ValueError(f"run.{name} must be {wanted}, but is {value!r:.60}")
        if (half := known.get("classes", "all")) not in CLASSES:
            raise ValueError(f"run.classes must be all, base or new, but is {half!r:.60}")
        if missing := [name for name in ("method", "dataset") if not known.get(name)]:
            raise ValueError(f"run.{missing[0]} is missing")
        return cls(**known)


def pairs(words: Sequence[str]) -> dict[str, str]:
    """KEY VALUE words as options, the last of the same key; ``ValueError`` for a word too many."""
    if len(words) % 2:
        raise ValueError(f"options come in pairs KEY VALUE, but got {' '.join(words)}")
    return dict(zip(words[::2], words[1::2]))


def variant_of(options: Mapping[str, object]) -> str:
    """Name of options that differ from the settings', such as ``prompt_depth_3``.

    Those that other fields of a run tell, or that change no result, are not in it.
    """
    chosen = [key for key in options if changes_results(key) and key not in (*_TOLD, _START)]
    names = (f"{key.rpartition('.')[2].lower()}_{options[key]}" for key in chosen)
    name = "-".join(re.sub(r"_?[^\w.+-]+", "_", name).strip("_") for name in names)
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_zero_shot(method: str) -> bool:
    row = methods().get(method)
    return bool(row and row.zero_shot)
