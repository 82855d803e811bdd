"""Arithmetic of results: means over seeds and data sets, harmonic means, intervals, ranks, verdicts. All in percent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import rankdata, t


@dataclass(frozen=True)
class Sample:
    """A result and its values by seed.

    mean: what a table prints. by_seed: the spread comes from here; an average keeps only the seeds that all its data
    sets have, and a harmonic mean is that of the means, as papers print it, so ``mean`` need not be the mean of these.
    """

    mean: float
    by_seed: dict[int, float]

    @classmethod
    def of(cls, by_seed: dict[int, float]) -> Sample:
        return cls(fmean(by_seed.values()), by_seed)

    @property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval of the mean over seeds; ``None`` with a single seed."""
        return confidence_half_width([*self.by_seed.values()]) if len(self.by_seed) > 1 else None


def confidence_half_width(values: Sequence[float]) -> float:
    """t(0.975, n - 1) * s / sqrt(n) of n >= 2 values (Student's t)."""
    return float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def harmonic_mean(base: float, new: float) -> float:
    """H = 2bn / (b + n), the summary of base-to-new generalization (Xian et al. 2017, as used by CoCoOp)."""
    return 2 * base * new / (base + new) if base + new else 0.0


def harmonic(base: Sample, new: Sample) -> Sample:
    """H of the two means; its spread is that of the H of every seed that has both."""
    seeds = base.by_seed.keys() & new.by_seed.keys()
    by_seed = {seed: harmonic_mean(base.by_seed[seed], new.by_seed[seed]) for seed in sorted(seeds)}
    return Sample(harmonic_mean(base.mean, new.mean), by_seed)


def average(samples: Sequence[Sample]) -> Sample:
    """Mean over data sets; its spread is that of the averages of every seed that all of them have."""
    seeds = set.intersection(*(set(sample.by_seed) for sample in samples))
    by_seed = {seed: fmean(sample.by_seed[seed] for sample in samples) for seed in sorted(seeds)}
    return Sample(fmean(sample.mean for sample in samples), by_seed)


def verdict(ours: Sample, published: float) -> str:
    """Whether our 95 % interval is ``above`` or ``below`` the published value, or has it ``inside``; "-": one seed."""
    if ours.half_width is None:
        return "-"
    if abs(ours.mean - published) <= ours.half_width:
        return "inside"
    return "above" if ours.mean > published else "below"


def ranks(values: Sequence[float]) -> list[int]:
    """1 for the largest value; equal values share the better rank."""
    return [int(rank) for rank in rankdata([-value for value in values], method="min")]
