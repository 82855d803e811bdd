"""Several processes make the steps of one: gloo on the CPU, spawned once for all cases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dassl import ranks
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import build_trainer
from dassl.utils import log
from tests.clip.small import difference
from tests.processes import SERVER, environment, free_port
from trainers import PromptTrainer, load
from trainers.sampling import AllClasses, SampledClasses

from .world import CLASSNAMES, Settings, Swatches, config, in_double, options, randomise, save_clip

GLOBAL_BATCH = 12  # of 24 training images
TWO_VIEWS = ("DATALOADER.K_TRANSFORMS", 2)
CASES: dict[str, tuple[str, Settings, tuple[object, ...]]] = {
    "POMP": ("POMP", {"UPDATE_CLASS_NUM": 4}, TWO_VIEWS),
    "RPP, sampled": ("RPP", {"UPDATE_CLASS_NUM": 5}, ()),
    "RPP, all classes": ("RPP", {"UPDATE_CLASS_NUM": 0}, ()),
    "MaPLe": ("MaPLe", {}, ()),
    "CoOp": ("CoOp", {}, ()),
    "CoOp, a context per class": ("CoOp", {"CSC": True}, ()),
    "CoCoOp": ("CoCoOp", {}, ()),
    "PromptSRC": ("PromptSRC", {}, ()),
    "MMRL": ("MMRL", {}, ()),
    "RPP, uneven shares": ("RPP", {"UPDATE_CLASS_NUM": 5}, ("DATASET.NAME", "SevenSwatches")),
    "POMP, every rank encodes all": ("POMP", {"UPDATE_CLASS_NUM": 4}, ("MODEL.SHARD_CLASSES", False)),
    "MaPLe, every rank encodes all": ("MaPLe", {}, ("MODEL.SHARD_CLASSES", False)),
}
TRAINED = ("POMP", "RPP, sampled", "PromptSRC", "MaPLe")  # for whole epochs
MISTAKES = {
    "gradient rule": (("ProGrad", {}, ()), "ProGrad makes its steps in one process"),
    "images": (("CoOp", {}, ("DATASET.NAME", "OneSwatch")), "processes cannot share 1 images"),
    "candidates": (("POMP", {"UPDATE_CLASS_NUM": 2}, ()), "processes cannot share UPDATE_CLASS_NUM 2"),
    "batch": (("CoOp", {}, ("OPTIM.GLOBAL_BATCH", 13)), "has no solution"),
}


class OneSwatch(Swatches):
    def __init__(self, cfg: object) -> None:
        super().__init__(cfg)
        self._test = self._test[:1]


class SevenSwatches(Swatches):
    """Fewer than a batch, which no number of processes shares evenly."""

    def __init__(self, cfg: object) -> None:
        super().__init__(cfg)
        self._train_x = self._train_x[::4] + self._train_x[:1]


for dataset in (OneSwatch, SevenSwatches):
    DATASET_REGISTRY.register(dataset, force=True)


def build(case: tuple[str, Settings, tuple[object, ...]], backbone: str, output: Path, size: int) -> PromptTrainer:
    method, settings, opts = case
    batch = ("DATALOADER.TRAIN_X.BATCH_SIZE", GLOBAL_BATCH // size, "OPTIM.MAX_EPOCH", 2)
    return build_trainer(config(method, backbone, output, *batch, *options(method, settings), *opts))


def one_step(trainer: PromptTrainer) -> dict[str, object]:
    """In fp64, in the second epoch: the images seen, the candidates, the loss's terms, gradients, and new weights."""
    trainer.begin()
    randomise(in_double(trainer))
    trainer.epoch, trainer.batch_idx, trainer.num_batches = 1, 0, len(trainer.train_loader_x)
    trainer.seed_epoch()
    batches = list(trainer.train_loader_x)
    views = batches[0]["img"]
    images = [view.double() for view in views] if isinstance(views, list) else views.double()
    candidates = []
    loss = trainer.model.method.loss
    trainer.model.method.loss = lambda model, batch: [candidates.append(batch.candidates), loss(model, batch)][1]
    terms = trainer.forward_backward({**batches[0], "img": images})
    parameters = dict(trainer.model.method.named_parameters())
    return {
        "order": [batch["index"].tolist() for batch in batches],
        "candidates": drawn(candidates[0]),
        "terms": {name: torch.as_tensor(term).double() for name, term in terms.items()},
        "gradients": {name: p.grad for name, p in parameters.items() if p.grad is not None},
        "weights": {name: p.detach() for name, p in parameters.items()},
    }


def drawn(candidates: AllClasses | SampledClasses) -> tuple[list[int], list[int]] | None:
    """The classes that are encoded, and the sampled ones in their order."""
    if isinstance(candidates, AllClasses):
        return None
    return candidates.classes.tolist(), candidates.classes[candidates.sampled].tolist()


def whole_run(trainer: PromptTrainer) -> dict[str, object]:
    """In fp32, with the test."""
    trainer.train()
    return {
        "history": [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in trainer.record.history],
        "weights": trainer.model.method.state_dict(),
        "results": trainer.record.results,
        "files": sorted(path.name for path in Path(trainer.output_dir).rglob("*") if path.is_file()),
    }


def everything(backbone: str, output: Path, size: int) -> dict[str, dict[str, object]]:
    found = {f"step of {name}": one_step(build(case, backbone, output, size)) for name, case in CASES.items()}
    for name in TRAINED:
        found[f"run of {name}"] = whole_run(build(CASES[name], backbone, output / name.split(",")[0], size))
    return found


def mistakes(backbone: str, output: Path, size: int) -> dict[str, str]:
    """What the first rank says; the others just end."""
    said = {}
    for name, (case, _) in MISTAKES.items():
        try:
            build(case, backbone, output, size).begin()
        except ValueError as error:
            said[name] = str(error)
        except SystemExit as end:
            said[name] = f"status {end.code}"
    return said


def rank(own: dict[str, str], size: int, backbone: str, output: str) -> None:
    torch.set_num_threads(1)
    log.setLevel("WARNING")
    os.environ |= own
    number = ranks.start(timeout=60).rank
    folder = Path(output, f"of{size}")
    found = {**everything(backbone, folder, size), "mistakes": mistakes(backbone, folder / "none", size)}
    torch.save(found, Path(output, f"rank{number}of{size}.pt"))
    ranks.stop()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_clip(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def alone(backbone: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What one process finds."""
    torch.manual_seed(0)
    return everything(backbone, tmp_path_factory.mktemp("alone"), 1)


def together(size: int, backbone: str, folder: Path) -> list[dict[str, dict[str, object]]]:
    """What each of several processes finds."""
    port = free_port()
    shared = (size, backbone, str(folder))
    processes = [SERVER.Process(target=rank, args=(environment(n, size, port), *shared)) for n in range(size)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
        assert [process.exitcode for process in processes] == [0] * size
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{n}of{size}.pt", weights_only=True) for n in range(size)]


def check_order(one: dict, several: list[dict]) -> None:
    """Each rank has its block of every batch of the one process."""
    batches = zip(*(other["order"] for other in several))
    assert [[image for block in batch for image in block] for batch in batches] == one["order"]
    assert len(one["order"]) == 1 + (len(one["order"][0]) == GLOBAL_BATCH)


def check_step(one: dict, several: list[dict], case: str) -> None:
    """Candidates, terms of the loss, gradients and weights of all ranks, which stay equal bit by bit."""
    for other in several:
        assert other["candidates"] == one["candidates"], case
        for what in ("terms", "gradients", "weights"):
            assert other[what].keys() == one[what].keys()
            for name, expected in one[what].items():
                limit = 1e-6 if name == "acc" else 1e-9  # counted in fp32
                assert difference(other[what][name], expected) < limit, (case, what, name)
                assert torch.equal(other[what][name], several[0][what][name]), (case, what, name)


def check_run(one: dict, several: list[dict], case: str) -> None:
    """Two epochs in fp32 and the test, which counts each image once; the first rank alone writes."""
    for other in several:
        for expected, epoch in zip(one["history"], other["history"]):
            assert epoch.keys() == expected.keys() and epoch["lr"] == expected["lr"]
            assert abs(epoch["loss"] - expected["loss"]) <= 1e-4 * abs(expected["loss"]), case
        for name, expected in one["weights"].items():
            assert difference(other["weights"][name], expected) < 1e-5, (case, name)
        for found in (one["results"]["test"], other["results"]["test"]):
            assert found["total"] == 2 * len(CLASSNAMES) and {row["total"] for row in found["per_class"]} == {2}
        assert other["results"]["test"]["correct"] == one["results"]["test"]["correct"], case
        events = [name for name in other["files"] if name.startswith("events")]
        assert len(events) == 1 and len(other["files"]) == len(one["files"])


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_are_one(size: int, alone: dict, backbone: str, tmp_path: Path) -> None:
    """Order of images, candidates, a step of every case, whole runs; a mistake is told once. They are started once, as
    that takes longer than all the rest."""
    found = together(size, backbone, tmp_path)
    for case in CASES:
        several = [one[f"step of {case}"] for one in found]
        check_order(alone[f"step of {case}"], several)
        check_step(alone[f"step of {case}"], several, case)
    for case in TRAINED:
        check_run(alone[f"run of {case}"], [one[f"run of {case}"] for one in found], case)
    for mistake, (_, expected) in MISTAKES.items():
        first, *others = (one["mistakes"][mistake] for one in found)
        assert expected in first and others == ["status 2"] * len(others), mistake


@pytest.mark.parametrize("case", CASES)
def test_several_passes_make_the_step_of_one(case: str, alone: dict, backbone: str, tmp_path: Path) -> None:
    method, settings, opts = CASES[case]
    passes = (*opts, "OPTIM.GLOBAL_BATCH", GLOBAL_BATCH)
    found, one = one_step(build((method, settings, passes), backbone, tmp_path, 3)), alone[f"step of {case}"]
    assert (found["order"], found["candidates"]) == (one["order"], one["candidates"])
    for what in ("terms", "gradients", "weights"):
        for name, expected in one[what].items():
            assert difference(found[what][name], expected) < (1e-6 if name == "acc" else 1e-9), (what, name)


def test_more_processes_than_classes(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "current", lambda: ranks.Ranks(7))
    with pytest.raises(ValueError, match=r"7 processes cannot share 6 classes.*MODEL\.SHARD_CLASSES False"):
        build(CASES["CoOp"], backbone, tmp_path, 1)
    build(("CoOp", {}, ("MODEL.SHARD_CLASSES", False)), backbone, tmp_path, 1)
