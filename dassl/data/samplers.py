"""In which order the items of a data set are visited."""

import math
import random
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from dassl.data.datasets import Datum
from dassl.ranks import Ranks, current

__all__ = [
    "RandomClassSampler",
    "RandomDomainSampler",
    "RankShare",
    "SeqDomainSampler",
    "SequentialDistributedSampler",
    "build_sampler",
]


class _DrawnAtOnce(Sampler[int]):
    """A sampler whose whole order is drawn when an epoch begins, however far ahead batches are prefetched."""

    def draw(self) -> Iterator[int]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(list(self.draw()))

    def __len__(self) -> int:
        return self.length


class _DomainSampler(_DrawnAtOnce):
    """Batches with an equal share of several domains; stops when a chosen domain cannot fill its share.

    n_domain: domains per batch, all of them if below 1; must divide ``batch_size``.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_domain: int) -> None:
        self.indices = _group_indices(item.domain for item in data_source)
        self.domains = sorted(self.indices)
        self.n_domain = n_domain if n_domain > 0 else len(self.domains)
        if self.n_domain > len(self.domains) or batch_size % self.n_domain:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {self.n_domain} of {len(self.domains)} domains"
            )
        self.share = batch_size // self.n_domain
        self.length = sum(1 for _ in self.draw())

    def choose_domains(self) -> list[int]:
        raise NotImplementedError

    def draw(self) -> Iterator[int]:
        left = {domain: random.sample(indices, len(indices)) for domain, indices in self.indices.items()}
        while True:
            batch: list[int] = []
            for domain in self.choose_domains():
                if len(left[domain]) < self.share:
                    return
                batch += left[domain][: self.share]
                left[domain] = left[domain][self.share :]
            yield from batch


class RandomDomainSampler(_DomainSampler):
    """Every batch draws its domains at random."""

    def choose_domains(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)


class SeqDomainSampler(_DomainSampler):
    """Every batch has all domains, sorted."""

    def __init__(self, data_source: Sequence[Datum], batch_size: int) -> None:
        super().__init__(data_source, batch_size, n_domain=0)

    def choose_domains(self) -> list[int]:
        return self.domains


class RandomClassSampler(_DrawnAtOnce):
    """Batches of ``batch_size // n_ins`` random classes with ``n_ins`` items each, until too few classes are left.

    A class with fewer items is filled up by drawing with replacement; an incomplete last group is left out.
    """

    def __init__(self, data_source: Sequence[Datum], batch_size: int, n_ins: int) -> None:
        if batch_size < n_ins:
            raise ValueError(f"batch size {batch_size} must be at least n_ins {n_ins}")
        self.indices = _group_indices(item.label for item in data_source)
        self.classes_per_batch = batch_size // n_ins
        self.n_ins = n_ins
        if len(self.indices) < self.classes_per_batch:
            raise ValueError(f"a batch needs {self.classes_per_batch} classes, but there are {len(self.indices)}")
        self.length = sum(1 for _ in self.draw())

    def _groups(self, indices: list[int]) -> list[list[int]]:
        if len(indices) < self.n_ins:
            indices = np.random.choice(indices, size=self.n_ins, replace=True).tolist()
        shuffled = random.sample(indices, len(indices))
        full = len(shuffled) // self.n_ins
        return [shuffled[i * self.n_ins : (i + 1) * self.n_ins] for i in range(full)]

    def draw(self) -> Iterator[int]:
        left = {label: self._groups(indices) for label, indices in self.indices.items()}
        while len(left) >= self.classes_per_batch:
            for label in random.sample(list(left), self.classes_per_batch):
                yield from left[label].pop()
                if not left[label]:
                    del left[label]


class SequentialDistributedSampler(Sampler[int]):
    """Each process visits one contiguous block of ``ceil(N / batch_size / processes) * batch_size`` items.

    The last item is repeated at the end, so gathering the blocks in rank order and cutting to N restores the data set.
    """

    def __init__(
        self, dataset: Sequence[Any], batch_size: int, rank: int | None = None, num_replicas: int | None = None
    ) -> None:
        self.rank = current().rank if rank is None else rank
        self.num_items = len(dataset)
        self.num_samples = math.ceil(self.num_items / batch_size / (num_replicas or current().size)) * batch_size

    def __iter__(self) -> Iterator[int]:
        start = self.rank * self.num_samples
        return (min(index, self.num_items - 1) for index in range(start, start + self.num_samples))

    def __len__(self) -> int:
        return self.num_samples


class Shuffled(RandomSampler):
    """torch's order, without a Python number for each of millions of items, which takes 40 bytes."""

    def __iter__(self) -> Iterator[int]:
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        order = torch.randperm(len(self.data_source), generator=torch.Generator().manual_seed(seed))
        return (i for part in order.split(1 << 16) for i in part.tolist())


class RankShare(Sampler[int]):
    """What one rank visits of a sampler's order, which all ranks draw alike, and all at once.

    batch_size: of one rank in training. The order is cut into steps of ``ranks.size * batch_size`` items, and a rank
    has a block of each; an incomplete last step is left out, unless it is the only one, which is shared out evenly.
    None in an evaluation: every ``ranks.size``-th item, so that each is visited once.
    ``first_step``: the steps before it are left out; where an interrupted epoch goes on.
    """

    def __init__(self, sampler: Sampler[int], ranks: Ranks, batch_size: int | None) -> None:
        self.sampler, self.ranks, self.batch_size = sampler, ranks, batch_size
        self.first_step = 0
        self._order: array | None = None
        if len(sampler) < ranks.size:
            raise ValueError(
                f"{ranks.size} processes cannot share {len(sampler)} images: start fewer with --nproc_per_node"
            )

    def draw(self) -> None:
        """Draw the order of the next epoch now; else that is done when its first batch is asked for."""
        self._order = array("q", self.sampler)  # 8 bytes for each of what may be millions

    def __iter__(self) -> Iterator[int]:
        if self._order is None:
            self.draw()
        order, self._order = self._order, None
        if self.batch_size is None:
            return iter(self.ranks.mine(order))
        step, rank = self.ranks.size * self.batch_size, self.ranks.rank
        if len(order) < step:
            start, end = (len(order) * r // self.ranks.size for r in (rank, rank + 1))
            return iter(order[start:end] if not self.first_step else [])
        starts = range(self.first_step * step, len(order) - step + 1, step)
        first, last = rank * self.batch_size, (rank + 1) * self.batch_size
        return (i for start in starts for i in order[start + first : start + last])

    def set_epoch(self, epoch: int) -> None:
        """For samplers that draw by it."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        """Items of a whole epoch."""
        total, size, rank = len(self.sampler), self.ranks.size, self.ranks.rank
        if self.batch_size is None:
            return len(range(rank, total, size))
        steps = total // (size * self.batch_size)
        return steps * self.batch_size if steps else total * (rank + 1) // size - total * rank // size


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Sequence[Datum] | None = None,
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler[int]:
    """The sampler of that name; ``ValueError`` for another one.

    It is that of all ranks, which ``RankShare`` shares out: the distributed ones shuffle (``DistributedSampler``) or
    visit the items in their order (``SequentialDistributedSampler``).
    """
    builders = {
        "RandomSampler": lambda: Shuffled(data_source),
        "SequentialSampler": lambda: SequentialSampler(data_source),
        "RandomDomainSampler": lambda: RandomDomainSampler(data_source, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(data_source, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(data_source, batch_size, n_ins),
        "DistributedSampler": lambda: DistributedSampler(data_source, num_replicas=1, rank=0),
        "SequentialDistributedSampler": lambda: SequentialSampler(data_source),
    }
    if sampler_type not in builders:
        raise ValueError(f"Unknown sampler type: {sampler_type}; known: {', '.join(builders)}")
    return builders[sampler_type]()


def _group_indices(keys: Any) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return groups
