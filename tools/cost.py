"""What a run costs on this machine, measured in a few steps; the command is ``tools.plan``.

Weights and data that are not here are stood in for (``tools/stand_ins.py``), other ranks too (``tools/dry_run.py``).
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import datasets  # noqa: F401 - registers the data sets
from dassl.config import CfgNode
from dassl.engine import build_trainer
from dassl.engine.record import peak_memory_gb
from dassl.engine.selection import Selection
from dassl.ranks import Ranks, acting_as
from tools.command import parse_args, setup_cfg
from tools.dry_run import FirstOf
from tools.estimate import Cost
from tools.jobs import silence
from tools.shares import Share
from tools.stand_ins import NOTHING, Stated, use_data, use_weights
from trainers.base import PromptTrainer

WARM_UP, STEPS = 2, 5
BATCH_SIZES = (1, 4, 100)
MEASURED_SECONDS, ENOUGH_SECONDS = 3.0, 60.0


# The trainer ----------------------------------------------------------------------------------------------------------


def plan(argv: Sequence[str], ranks: int = 1, stated: Stated = NOTHING) -> Cost:
    """Of the run that ``train.py`` would carry out with these arguments, in so many processes."""
    start = time.perf_counter()
    trainer, notes = build(argv, ranks, stated)
    return measure(trainer, notes, time.perf_counter() - start)


def build(argv: Sequence[str], ranks: int = 1, stated: Stated = NOTHING) -> tuple[PromptTrainer, dict[str, str]]:
    """The trainer of a run, or of one of its ranks, on its device and ready for a step, and what stands in for what;
    prints nothing."""
    if ranks < 1:
        raise ValueError(f"--ranks must be 1 or more, but is {ranks}")
    one = FirstOf(ranks) if ranks > 1 else Ranks()
    with silence(), acting_as(one):
        cfg = setup_cfg(parse_args(argv)).clone()
        cfg.defrost()
        notes = {"weights": weights} if (weights := use_weights(cfg, stated.forced)) else {}
        if notes or stated.replaces_data:
            cfg.DATALOADER.FEATURE_STORE = ""  # nothing of a stand-in is to be found there
        if stated.replaces_data:
            notes["data"] = use_data(cfg, stated)
            return begun(cfg), notes
        try:
            return begun(cfg), notes
        except FileNotFoundError as error:
            try:
                notes["data"], cfg.DATALOADER.FEATURE_STORE = use_data(cfg, stated), ""
            except ValueError as unknown:
                raise FileNotFoundError(f"{error}; {unknown}, to plan without it") from error
            return begun(cfg), notes


def begun(cfg: CfgNode) -> PromptTrainer:
    cfg = cfg.clone()
    cfg.freeze()
    trainer = build_trainer(cfg)
    trainer.ranks.classes = trainer.num_classes
    trainer.begin()
    trainer.num_batches, trainer.epoch, trainer.batch_idx = len(trainer.train_loader_x), 0, 0
    return trainer


# Measurements ---------------------------------------------------------------------------------------------------------


def measure(trainer: PromptTrainer, notes: Mapping[str, str] | None = None, start_seconds: float = 0.0) -> Cost:
    """Carry out a few steps and test batches of a trainer that is not needed afterwards, and what its method does after
    the last epoch."""
    cfg, data = trainer.cfg, trainer.dm.dataset
    has_steps, is_saved = trainer.optim is not None, bool(trainer.get_model_names())
    with tqdm(total=4, desc="measuring steps", leave=False, disable=None) as bar:
        step, first = seconds_a_step(trainer) if has_steps else (0.0, 0.0)
        following(bar, "measuring a checkpoint")
        saving = seconds_a_checkpoint(trainer) if is_saved else 0.0
        following(bar, "measuring the test")
        texts, image = seconds_of_test(trainer)
        following(bar, "what is fitted in the end")
        ending = seconds_of_end(trainer) if is_saved else 0.0
    epochs = trainer.max_epoch if is_saved else 0
    frequency, has_test = cfg.TRAIN.CHECKPOINT_FREQ, not cfg.TEST.NO_TEST
    return Cost(
        share=share_of(trainer, state_numbers(trainer) if has_steps else 0),
        clip=count(trainer.model.clip),
        images=len(data.train_x),
        steps=trainer.num_batches if has_steps else 0,
        epochs=epochs,
        val_images=len(data.val or ()),
        evaluations=(selections(Selection(cfg), epochs, trainer.num_batches if has_steps else 0), int(has_test)),
        test_images=len(data.test),
        checkpoints=epochs + (epochs // frequency if frequency > 0 else 0),
        start_seconds=start_seconds,
        first_seconds=first,
        end_seconds=ending,
        step_seconds=step,
        text_seconds=texts,
        test_seconds=image,
        checkpoint_seconds=saving,
        memory_gb=peak_memory_gb(trainer.device),
        device=torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else "CPU",
        notes=notes or {},
    )


def following(bar: tqdm, stage: str) -> None:
    bar.update()
    bar.set_description(stage)


def selections(selection: Selection, epochs: int, steps: int) -> int:
    """How often a run of so many epochs of so many steps looks at its validation images."""
    looks = sum(selection.after_epoch(done) for done in range(1, epochs + 1))
    for number in range(selection.steps, epochs * steps + 1, selection.steps or 1) if steps else ():
        epoch, done = divmod(number - 1, steps)
        looks += selection.after_step(epoch, done + 1, steps)
    return looks


def count(module: torch.nn.Module, trainable: bool = False) -> int:
    return sum(param.numel() for param in module.parameters() if param.requires_grad or not trainable)


def state_numbers(trainer: PromptTrainer) -> int:
    """What the optimiser keeps after a step, such as momenta."""
    kept = chain.from_iterable(state.values() for state in trainer.optim.state.values())
    return sum(value.numel() for value in kept if isinstance(value, torch.Tensor) and value.dim())


def share_of(trainer: PromptTrainer, state: int = 0) -> Share:
    """Of a trainer's step; ``state``: numbers that the optimiser keeps."""
    cfg, sampling, model = trainer.cfg, trainer.needs.sampling, trainer.model
    with torch.no_grad(), model.autocast():
        try:
            model.train().features(None, model.subset(torch.zeros(1, dtype=torch.long))[0])
            is_shared = model.ranks.size == trainer.ranks.size
        except ValueError:  # texts per image
            is_shared = False
    return Share(
        ranks=trainer.ranks.size,
        batch=trainer.train_loader_x.batch_size,
        classes=trainer.num_classes,
        candidates=sampling.num_candidates if sampling else 0,
        width=model.clip.embed_dim,
        parameters=count(model, trainable=True),
        state=state,
        views=cfg.DATALOADER.K_TRANSFORMS * trainer.needs.views,
        passes=cfg.OPTIM.ACCUM_STEPS,
        shares_texts=is_shared,
    )


def seconds_a_step(trainer: PromptTrainer) -> tuple[float, float]:
    """Of a step, and what the first one takes beyond it: loaders start, a teacher encodes its classes."""
    trainer.set_model_mode("train")
    batches = chain.from_iterable(repeat(trainer.train_loader_x))

    def step() -> object:
        return trainer.forward_backward(next(batches))

    first = seconds_of(step, trainer.device)
    for _ in range(WARM_UP - 1):
        step()
    each = max(mean_seconds(step, trainer.device), loading_seconds(trainer.train_loader_x))
    return each, max(first - each, 0.0)


def loading_seconds(loader: DataLoader) -> float:
    """Of a batch, if its workers are never waited for: a few steps find batches that were made in advance. 0 without
    workers, where loading is part of the step."""
    if not loader.num_workers:
        return 0.0
    draw, images = random.Random(0), loader.dataset
    return mean_seconds(lambda: images[draw.randrange(len(images))]) * loader.batch_size / loader.num_workers


def seconds_a_checkpoint(trainer: PromptTrainer) -> float:
    with tempfile.TemporaryDirectory() as folder, silence():
        return seconds_of(lambda: trainer.save_model(0, folder), trainer.device)


def seconds_of_end(trainer: PromptTrainer) -> float:
    """Of what a method does when all epochs are done: some fit or choose there, in full."""
    total, method = trainer.max_epoch, trainer.model.method
    with silence(), trainer.model.autocast():
        return seconds_of(lambda: method.end_epoch(total, total, trainer.model, trainer.image_sets), trainer.device)


@torch.no_grad()
def seconds_of_test(trainer: PromptTrainer) -> tuple[float, float]:
    """Of the class texts, which are encoded once, and of one image."""
    trainer.set_model_mode("eval")
    trainer.evaluator.reset()
    blank = torch.zeros(1, 3, *trainer.cfg.INPUT.SIZE, device=trainer.device)
    first, again = (seconds_of(lambda: trainer.model_inference(blank), trainer.device) for _ in range(2))
    batches = (batch for batch in chain.from_iterable(repeat(trainer.test_loader)) if batch is not None)
    images = []

    def process() -> None:
        image, label = trainer.parse_batch_test(next(batches))
        trainer.evaluator.process(trainer.model_inference(image), label)
        images.append(len(image))

    process()
    images.clear()
    each = mean_seconds(process, trainer.device, least=2) * len(images) / sum(images)
    loading = loading_seconds(trainer.test_loader) / trainer.test_loader.batch_size
    return max(first - again, 0.0), max(each, loading)


def seconds_of(work: Callable[[], object], device: torch.device | None = None) -> float:
    begun = now(device)
    work()
    return now(device) - begun


def mean_seconds(work: Callable[[], object], device: torch.device | None = None, least: int = STEPS) -> float:
    """Of one call, over at least so many and ``MEASURED_SECONDS``, but no more once it took ``ENOUGH_SECONDS``."""
    begun, calls, passed = now(device), 0, 0.0
    while passed < ENOUGH_SECONDS and (calls < least or passed < MEASURED_SECONDS):
        work()
        calls, passed = calls + 1, time.perf_counter() - begun
    return (now(device) - begun) / calls


def now(device: torch.device | None = None) -> float:
    """Seconds, when the device has done what it was given."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# Complexity -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def complexity(trainer: PromptTrainer) -> dict[str, object]:
    """Parameters, FLOPs of one image with and without the class texts, images per second (texts encoded once)."""
    trainer.set_model_mode("eval")
    size = trainer.cfg.INPUT.SIZE
    image = torch.rand(max(BATCH_SIZES), 3, *size, device=trainer.device)

    def forward(number: int) -> Callable[[], object]:
        return lambda: trainer.model_inference(image[:number])

    first, later = gigaflops(forward(1)), gigaflops(forward(1))
    trainable = count(trainer.model, trainable=True)
    return {
        "method": trainer.cfg.TRAINER.NAME,
        "classes": trainer.num_classes,
        "parameters": f"{trainable:,}",
        "% of CLIP": f"{100 * trainable / count(trainer.model.clip):.3f}",
        "GFLOPs, texts and an image": f"{first:.2f}",
        "GFLOPs, an image": f"{later:.2f}",
        **{f"images/s, batch {n}": f"{n / mean_seconds(forward(n), trainer.device, 1):.0f}" for n in BATCH_SIZES},
    }


def gigaflops(forward: Callable[[], object]) -> float:
    """10^9 operations, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e9


def complexity_table(runs: Sequence[Sequence[str]]) -> str:
    """One row for each run, given by its arguments of ``train.py``."""
    rows = []
    for argv in runs:
        row = complexity(build(argv)[0])
        config = Path(parse_args(argv).config_file).stem
        rows.append({"method": row.pop("method"), "settings": config, **row})
    return tabulate(rows, headers="keys", disable_numparse=True)
