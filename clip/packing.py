"""How token rows of many texts are laid out in memory: a common prefix, and suffixes in buckets of one length.

All of it happens on the host.

Letters: C texts of up to T tokens, p prefix rows, R suffix rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """A run of token rows: ids and positions (R,); ``slots`` index the context rows, ``context`` says which vector."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    context: tuple[Tensor, ...]  # (slot,) or, for one context per class, (class, slot)

    @classmethod
    def make(cls, ids: Tensor, positions: Tensor, classes: Tensor | None) -> Rows:
        slots = (ids < 0).nonzero()[:, 0]
        context = (-1 - ids[slots],) if classes is None else (classes[slots], -1 - ids[slots])
        return cls(ids.clamp(min=0), positions, slots, context)


@dataclass(frozen=True)
class Bucket:
    """``count`` suffixes of ``size`` rows each. Masks are None where every row may be seen.

    mask: (size, p + size) bool, causal. eos_mask: (count, 1, 1, p + size), what each EOS row sees.
    """

    count: int
    size: int
    mask: Tensor | None
    eos_mask: Tensor | None


@dataclass(frozen=True)
class Chunk:
    rows: Rows
    buckets: tuple[Bucket, ...]  # in packing order
    eos: Tensor  # (texts,) row of each text's EOS


@dataclass(frozen=True)
class Layout:
    prefix: Rows
    chunks: tuple[Chunk, ...]
    order: Tensor  # (C,) where text i stands among the packed ones


def make_layout(ids: Tensor, lengths: Tensor, own_context: bool, max_rows: int | None, bucket_cost: float) -> Layout:
    """Split off the common prefix, sort suffixes by length into buckets, cut into chunks of at most ``max_rows`` rows.

    ids (C, T) and lengths (C,): see ``Texts``. own_context: the context differs between classes, so it is no prefix.
    bucket_cost: rows that take as long as one more bucket.
    """
    common = (ids == ids[0]).all(dim=0)
    if own_context:
        common &= ids[0] >= 0
    p = min(int(common.cumprod(0).sum()), int(lengths.min()) - 1)
    by_length = lengths.argsort(stable=True)
    sizes, counts = (lengths - p).unique(return_counts=True)  # sorted, as by_length is
    buckets = merge_buckets(list(zip(counts.tolist(), sizes.tolist())), bucket_cost)
    chunks, done = [], 0
    for run in split_buckets(buckets, max_rows):
        members = by_length[done : done + sum(count for count, _ in run)]
        done += len(members)
        chunks.append(make_chunk(ids, lengths[members] - p, members, run, p, own_context))
    order = torch.empty_like(by_length)
    order[by_length] = torch.arange(len(by_length))
    prefix = Rows.make(ids[0, :p], torch.arange(p), None)
    return Layout(prefix, tuple(chunks), order)


def make_chunk(
    ids: Tensor,
    sizes: Tensor,
    members: Tensor,
    run: list[tuple[int, int]],
    p: int,
    own_context: bool,
) -> Chunk:
    """members: (texts,) indices of the chunk's texts, sizes: rows of their suffixes, run: its (count, size) buckets."""
    room = torch.cat([torch.full((count,), size) for count, size in run])  # rows of each text, filling included
    starts = room.cumsum(0) - room
    last = sizes - 1
    classes = members.repeat_interleave(room)
    positions = p + torch.arange(len(classes)) - starts.repeat_interleave(room)
    rows = Rows.make(ids[classes, positions], positions, classes if own_context else None)
    groups = zip(run, last.split([count for count, _ in run]))
    buckets = tuple(make_bucket(count, size, p, eos) for (count, size), eos in groups)
    return Chunk(rows, buckets, starts + last)


def make_bucket(count: int, size: int, p: int, eos: Tensor) -> Bucket:
    causal = torch.ones(size, p + size, dtype=torch.bool).tril(p)
    eos_mask = None if (eos == size - 1).all() else causal[eos][:, None, None]
    return Bucket(count, size, causal if size > 1 else None, eos_mask)


def merge_buckets(buckets: list[tuple[int, int]], cost: float) -> list[tuple[int, int]]:
    """The cheapest grouping of (count, size) buckets, sorted by size, if each costs its filling plus ``cost`` rows."""
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]  # of the first n buckets
    for end, (_, size) in enumerate(buckets, start=1):
        options = []
        for begin in range(end):
            filling = sum(count * (size - shorter) for count, shorter in buckets[begin:end])
            options.append((best[begin][0] + filling + cost, begin))
        total, begin = min(options)
        merged = (sum(count for count, _ in buckets[begin:end]), size)
        best.append((total, [*best[begin][1], merged]))
    return best[-1][1]


def split_buckets(buckets: list[tuple[int, int]], max_rows: int | None) -> list[list[tuple[int, int]]]:
    """Cut (count, size) buckets into runs of at most ``max_rows`` rows, but at least one text each."""
    if max_rows is None:
        return [buckets]
    runs, run, room = [], [], max_rows
    for count, size in buckets:
        while count:
            take = min(count, max(room // size, 0 if run else 1))
            if take == 0:
                runs.append(run)
                run, room = [], max_rows
                continue
            run.append((take, size))
            room -= take * size
            count -= take
    return [*runs, run] if run else runs
