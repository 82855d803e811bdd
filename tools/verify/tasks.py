"""All that there is to verify, in the order in which it is worth knowing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy
import PIL
import torch
import torchvision

from configs import ROOT as CONFIGS
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import sha256_of
from tools.data.catalog import CATALOG
from tools.data.commands import BUILT_IN
from trainers.load import ZERO_SHOT

from . import data, speed
from .accuracy import Setup, verify_checkpoint, verify_images, verify_zeroshot
from .expected import Accuracy, Expected, stems
from .verdicts import ABSENT, OK, WRONG, Task, Verdict, absent, digest_of, stamp_of_file, stamp_of_folder
from .weights import verify_weights

VERSIONS = [torch.__version__, torchvision.__version__, PIL.__version__, numpy.__version__]
CODE = ("benchmarks", "clip", "configs", "dassl", "datasets", "trainers", "tools/verify")


@cache
def code() -> str:
    """Digest of what computes: another version of it may find something else."""
    paths = [
        path
        for top in CODE
        for suffix in ("py", "yaml", "json")
        for path in (CONFIGS.parent / top).rglob(f"*.{suffix}")
    ]
    return digest_of([[str(path), sha256_of(str(path))] for path in sorted(paths)])


@dataclass(frozen=True)
class Plan:
    """weights: the file, or None and why not. names: registry names of data sets; checkpoints: by method."""

    setup: Setup
    names: tuple[str, ...]
    no_weights: str = ""
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> Expected:
        return self.setup.expected

    def here(self) -> list[str]:
        """Stems of the data sets that can be read as far as can be seen."""
        return [stems()[name] for name in self.names if data.state(name, self.setup.root)[0] == OK]

    def files(self, name: str) -> list[Any]:
        """What verdicts on a data set depend on; its files are looked at once."""
        if name not in self.stamps:
            self.stamps[name] = data.stamp(name, self.setup.root)
        known = self.expected.datasets.get(name, {})
        return [str(self.setup.root), self.stamps[name], dict(known), [*self.setup.opts], code()]

    def with_weights(self, more: Callable[[], Any] = list) -> list[Any]:
        """What everything that runs the backbone depends on, and more."""
        file = self.no_weights or stamp_of_file(self.setup.weights)
        return [file, self.expected.backbone, [*self.setup.opts], VERSIONS, code(), speed.device_name(), more()]

    # Tasks ------------------------------------------------------------------------------------------------------------

    def weights(self) -> Iterator[Task]:
        setup, expected = self.setup, self.expected
        name = expected.backbone or "weights"
        inputs = partial(self.with_weights, lambda: [expected.sha256, dict(expected.tensors)])
        yield self.task("weights", name, inputs, partial(verify_weights, setup.weights, expected))
        dataset = (self.here() or [stems()[self.names[0]]])[0]
        yield self.task("weights", "images", self.with_weights, partial(verify_images, setup, dataset))

    def data(self) -> Iterator[Task]:
        for name in self.names:
            known = self.expected.datasets.get(name, {})
            work = partial(data.verify_data, name, self.setup.root, known, self.setup.opts)
            yield Task("data", name, partial(self.files, name), work)

    def zeroshot(self) -> Iterator[Task]:
        """Of what is there; that others are not, their data's line says."""
        for name in self.names:
            if data.state(name, self.setup.root)[0] == ABSENT:
                continue
            wanted = self.expected.accuracies.get(ZERO_SHOT, {}).get(stems()[name])
            inputs = partial(self.with_weights, lambda name=name, wanted=wanted: [self.files(name), wanted])
            yield self.task("zeroshot", name, inputs, partial(self.zeroshot_of, name, wanted))

    def zeroshot_of(self, name: str, wanted: Accuracy | None) -> Iterator[Verdict]:
        condition, why = data.state(name, self.setup.root)
        if condition != OK:
            yield absent(name, why)
        elif wanted is None:
            yield absent(name, f"no number of {self.expected.backbone} on {stems()[name]} is known")
        else:
            yield verify_zeroshot(self.setup, name, stems()[name], wanted)

    def prompts(self) -> Iterator[Task]:
        if not self.checkpoints:
            yield nothing("checkpoints", "prompts", "none are given", "--checkpoints FOLDER or METHOD=PATH")
        for method, path in self.checkpoints.items():
            inputs = partial(self.with_weights, partial(self.prompt_files, method, path))
            yield self.task("checkpoints", method, inputs, partial(self.checkpoint, method, path))

    def prompt_files(self, method: str, path: Path) -> list[Any]:
        file = stamp_of_folder(path) if path.is_dir() else stamp_of_file(path)
        return [file, self.expected.accuracies.get(method), *map(self.files, self.homes(method))]

    def homes(self, method: str) -> list[str]:
        """Registry names of the data sets on which numbers of a method's prompts are known."""
        known = self.expected.accuracies.get(method, {})
        return [name for name, stem in stems().items() if stem in known]

    def checkpoint(self, method: str, path: Path) -> Iterator[Verdict]:
        names = self.homes(method)
        if not names:
            yield absent(method, f"no printed number with {self.expected.backbone} on what it was trained on is known")
        for name in names:
            condition, why = data.state(name, self.setup.root)
            if condition != OK:
                yield absent(f"{method} on {stems()[name]}", why)
            else:
                wanted = self.expected.accuracies[method][stems()[name]]
                yield verify_checkpoint(self.setup, method, path, stems()[name], wanted)

    def step(self) -> Iterator[Task]:
        known = speed.precisions()
        for precision in known:
            work = partial(speed.verify_step, self.expected, self.setup.weights, precision)
            yield self.task("step", precision, self.with_weights, work)
        if others := speed.PRECISIONS[len(known) :]:
            yield nothing("step", ", ".join(others), "there is no GPU")

    def times(self) -> Iterator[Task]:
        trained = [stems()[name] for name in self.names if self.can_train(name)]
        if not trained or (self.expected.backbone != "tiny" and speed.device_name() == "CPU"):
            why = "there is no GPU" if trained else "no data set to train on is here"
            yield nothing("times", "trainings", why, "'python -m tools.plan' with a config tells what they would take")
            return
        for method in speed.learners():
            work = partial(speed.verify_times, self.setup, method, trained[0])
            yield self.task("times", method, partial(self.with_weights, lambda: trained[0]), work)

    def can_train(self, name: str) -> bool:
        return data.state(name, self.setup.root)[0] == OK and not DATASET_REGISTRY.get(name).test_only

    def task(self, part: str, name: str, inputs: Callable[[], Any], work: Callable[[], Iterable[Verdict]]) -> Task:
        """One that needs weights."""
        return nothing(part, name, self.no_weights) if self.no_weights else Task(part, name, inputs, work)

    def tasks(self, parts: Sequence[str] = ()) -> list[Task]:
        return [task for part in parts or PARTS for task in PARTS[part](self)]


def nothing(part: str, what: str, why: str, advice: str = "") -> Task:
    """A task that tells why there is none."""
    return Task(part, what, list, lambda: [absent(what, why, advice)])


PARTS: dict[str, Callable[[Plan], Iterator[Task]]] = {
    "weights": Plan.weights,
    "data": Plan.data,
    "zeroshot": Plan.zeroshot,
    "checkpoints": Plan.prompts,
    "step": Plan.step,
    "times": Plan.times,
}


def check_names(names: Sequence[str], root: Path | None) -> tuple[str, ...]:
    """Registry names of the data sets; without any those of the world. ``ValueError`` if none of them is here."""
    names = tuple(names) or tuple(BUILT_IN if root is None else CATALOG)
    if root is not None and not root.is_dir():
        raise FileNotFoundError(f"No folder {root} (--root)")
    if all(data.state(name, root)[0] not in (OK, WRONG) for name in names):
        raise ValueError(
            f"None of {', '.join(names)} is in {root}; 'python -m tools.data list --root {root}' says more"
        )
    return names
