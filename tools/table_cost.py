"""The cost of a whole table: FLOPs of every run of a benchmark file, ours beside the family's way; see ``tools.plan``.

A method's step and test batch are counted (``tools/method_cost.py``); the rest is arithmetic over the runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tabulate import tabulate
from tqdm import tqdm

import datasets  # noqa: F401 - registers the data sets
from dassl.config import CfgNode, solve_batch
from dassl.engine.selection import Selection
from tools import sweep
from tools.command import parse_args, setup_cfg
from tools.cost import selections
from tools.jobs import Job, silence
from tools.method_cost import FAMILY_CLASSES, Costs, FamilyCLIP, Learner
from tools.stand_ins import NOTHING, Counts, Stated, use_weights
from trainers.features import view_options

ASSUMED = """\
A multiplication and an addition are two FLOPs; optimisers, augmentation and fits of whole lists are not counted, nor
is what a memory budget recomputes. Class names are as long as ImageNet-21K's; half of the classes have half of the
images. Ours: test features of images that no prompt changes, and kept views of training images, once for all runs
that share the store; class texts once an evaluation. The family's way: texts of 77 tokens, encoded anew with the
images in every step and test batch, and for each image where they depend on it; all images of all epochs and tests
encoded by every run; hand-written texts, and texts without a prompt, once a run. Both: the same steps, batches,
views and sampled classes, and no gradient through an encoder that has no prompt."""


Kept = set[Hashable]  # views of lists of images that a run before has encoded


@dataclass(frozen=True)
class Run:
    """What of a job counts."""

    job: Job
    cfg: CfgNode
    learner: Learner
    counts: Counts

    @classmethod
    def of(cls, job: Job, stated: Stated = NOTHING) -> Run:
        with silence():
            cfg = solve_batch(setup_cfg(parse_args(job.argv)), 1).clone()
            cfg.defrost()
            use_weights(cfg, True)  # shapes are enough
        return cls(job, cfg, Learner.of(cfg), stated.counts(cfg))

    def views(self, split: str, seed: int | None = None, number: int = 0) -> Hashable:
        """A view of a list of images: the same for all runs that find it in the store."""
        spec, cfg = self.job.spec, self.cfg
        shots = spec.shots if split == "train" else None
        own = "" if cfg.DATALOADER.FEATURE_STORE else self.job.output_dir
        look = (
            str(view_options(cfg, seed is not None)),
            str(cfg.MODEL.BACKBONE),
            self.precision,
            cfg.DATALOADER.FEATURE_STORE,
        )
        return (own, look, spec.dataset, spec.classes, split, shots, seed, number)

    @property
    def precision(self) -> str:
        return str(self.cfg.TRAINER[self.learner.method.section().removeprefix("TRAINER.")].PREC)

    @property
    def steps(self) -> int:
        """Of an epoch; the last images are left out where they are no whole batch."""
        return max(1, self.counts.images // self.cfg.OPTIM.GLOBAL_BATCH)

    @property
    def classes_a_step(self) -> float:
        """All, or K - 1 sampled ones and as many of the images' own as are not among them, on average."""
        every, sampling = self.counts.classes, self.learner.needs.sampling
        if sampling is None:
            return every
        drawn = min(sampling.num_candidates - 1, every)
        distinct = every * (1 - (1 - 1 / every) ** self.cfg.OPTIM.GLOBAL_BATCH)
        return drawn + distinct * (1 - drawn / every)

    def training(self, costs: Costs, kept: Kept | None, keeps_views: bool = True) -> float:
        """FLOPs; ``kept`` None: every run for itself."""
        cfg = self.cfg
        if self.job.spec.evaluation:
            return 0.0
        loader, seed, images = cfg.DATALOADER, self.job.spec.seed, self.counts.images
        caches = loader.CACHE_FEATURES and keeps_views
        passes = max(costs.passes, loader.FEATURE_VIEWS if caches else 0)
        total = costs.once(1, self.counts.classes)
        for number in range(passes):
            total += costs.encode * images * is_new(kept, self.views("train", seed, number))
        step = costs.step_of_features if caches else costs.step
        batch = loader.TRAIN_X.BATCH_SIZE * loader.K_TRANSFORMS
        count = cfg.OPTIM.MAX_EPOCH * self.steps * cfg.OPTIM.ACCUM_STEPS
        return total + count * step(batch, self.classes_a_step)

    def evaluations(self, costs: Costs, kept: Kept | None) -> float:
        """FLOPs of all looks at validation images and of the test."""
        looks = 0
        if not self.job.spec.evaluation:
            looks = selections(Selection(self.cfg), self.cfg.OPTIM.MAX_EPOCH, self.steps)
        total, stores = 0.0, self.cfg.DATALOADER.FEATURE_STORE and not self.learner.needs.images and kept is not None
        parts = (("val", self.counts.val_images or self.counts.test_images, looks),)
        for split, images, times in (*parts, ("test", self.counts.test_images, int(not self.cfg.TEST.NO_TEST))):
            if not times:
                continue
            if stores:
                total += costs.encode * images * is_new(kept, self.views(split))
            batches = -(-images // self.cfg.DATALOADER.TEST.BATCH_SIZE)
            batch = costs.test_of_features if stores else costs.test
            each = costs.texts(1, self.counts.classes) + batches * batch(images / batches, self.counts.classes)
            total += times * each
        return total


def is_new(kept: Kept | None, views: Hashable) -> bool:
    """Whether nobody has encoded them; from now on somebody has."""
    if kept is None:
        return True
    known = views in kept
    kept.add(views)
    return not known


@dataclass
class Total:
    """FLOPs of a row. keeping: the family's way, but with the views kept that our settings keep (CACHE_FEATURES)."""

    runs: int = 0
    ours: float = 0.0
    family: float = 0.0
    keeping: float = 0.0

    def add(self, other: Total) -> None:
        self.runs, self.ours = self.runs + other.runs, self.ours + other.ours
        self.family, self.keeping = self.family + other.family, self.keeping + other.keeping


def totals(jobs: Sequence[Job], stated: Stated = NOTHING) -> dict[str, Total]:
    """By method, in the order of the jobs."""
    runs = [Run.of(job, stated) for job in tqdm(jobs, desc="reading settings", leave=False, disable=None)]
    learners = list(dict.fromkeys(run.learner for run in runs))
    bar = tqdm(learners, desc="counting methods", leave=False, disable=None)
    counted = {each: (each.costs(), each.costs(FamilyCLIP, FAMILY_CLASSES)) for each in bar}
    rows: dict[str, Total] = {}
    kept: Kept = set()
    for run in runs:
        ours, family = counted[run.learner]
        test = run.evaluations(family, None)
        one = Total(
            runs=1,
            ours=run.training(ours, kept) + run.evaluations(ours, kept),
            family=run.training(family, None, keeps_views=False) + test,
            keeping=run.training(family, None) + test,
        )
        rows.setdefault(run.job.spec.method, Total()).add(one)
    return rows


def table(file: str, teraflops: float, stated: Stated = NOTHING, imports: Sequence[str] = ()) -> str:
    """Of a benchmark file; hours at so many 10^12 FLOP a second."""
    benchmarks = sweep.read_benchmarks(file)
    if any(benchmark.protocol == "complexity" for benchmark in benchmarks):
        raise ValueError(f"{file} has no runs to sum up: its table is one of costs (python -m tools.sweep)")
    planned = (sweep.plan_jobs(benchmark, imports=imports) for benchmark in benchmarks)
    rows = totals(list({job.output_dir: job for part in planned for job in part}.values()), stated)
    rows["total"] = total = Total()
    for name, row in rows.items():
        if name != "total":
            total.add(row)
    hours = 3600 * teraflops * 1e12
    cells = [
        [name, row.runs, f"{row.ours / 1e15:,.2f}", f"{row.family / 1e15:,.1f}", f"{row.family / row.ours:.1f}"]
        + [f"{flops / hours:,.2f}" for flops in (row.ours, row.family)]
        for name, row in rows.items()
    ]
    header = ("method", "runs", "ours PFLOP", "family PFLOP", "ratio", "ours h", "family h")
    right = ("left", *["right"] * 6)
    lines = [tabulate(cells, header, tablefmt="github", disable_numparse=True, colalign=right)]
    if total.keeping != total.family:
        lines.append(
            f"If the family's way kept the augmented views that these settings keep (CACHE_FEATURES): "
            f"{total.keeping / 1e15:,.1f} PFLOP, ratio {total.keeping / total.ours:.1f}."
        )
    lines.append(f"Hours: a prediction, at {teraflops:g} TFLOP/s throughout, without loading of images.")
    return "\n\n".join((*lines, ASSUMED))
