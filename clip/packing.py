"""How token rows of many texts are laid out in memory: a common prefix, and suffixes in buckets of one length.

All of it happens on the host.

Letters: C texts of up to T tokens, M of them in a chunk, p prefix rows, R suffix rows, S context slots among them,
c suffixes of s rows in a bucket, G groups (a context per image).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Packing(NamedTuple):
    """What a layout depends on, besides the texts."""

    device: torch.device  # where its tensors are needed
    per_class: bool  # whether contexts differ between classes, so that they are no prefix
    max_rows: int | None  # of a chunk
    bucket_cost: float  # rows that take as long as one more bucket


@dataclass(frozen=True, eq=False)
class Rows:
    """A run of token rows and, for its context slots, which vector stands there."""

    ids: Tensor  # (R,)
    positions: Tensor  # (R,)
    slots: Tensor  # (S,) rows that are context slots
    vectors: Tensor  # (S,) number of the context vector there
    classes: Tensor | None  # (S,) whose context, if they differ between classes

    @classmethod
    def make(cls, ids: Tensor, positions: Tensor, classes: Tensor | None = None) -> Rows:
        """ids, positions, classes: (R,)."""
        slots = (ids < 0).nonzero()[:, 0]  # (S,)
        return cls(ids.clamp(min=0), positions, slots, -1 - ids[slots], None if classes is None else classes[slots])


@dataclass(frozen=True, eq=False)
class Bucket:
    """c suffixes of s rows each. Masks are None where every row may be seen."""

    count: int  # c
    rows: slice  # of the chunk's R
    texts: slice  # of the chunk's M
    mask: Tensor | None  # (s, p + s) bool, causal
    eos_mask: Tensor | None  # (c, 1, 1, p + s), what each EOS row sees

    def mask_of(self, eos_only: bool, groups: int, keys: int) -> Tensor | None:
        """(s, keys) for all rows; for the EOS rows alone (G c, 1, 1, keys), with G groups behind one another. ``keys``:
        p + s, and more where the prefix has grown, whose rows all may be seen."""
        mask = self.eos_mask if eos_only else self.mask
        if mask is None:
            return None
        if more := keys - mask.shape[-1]:
            mask = F.pad(mask, (more, 0), value=True)
        return mask.repeat(groups, 1, 1, 1) if eos_only and groups > 1 else mask  # (G c, 1, 1, keys)


@dataclass(frozen=True, eq=False)
class Chunk:
    rows: Rows
    buckets: tuple[Bucket, ...]  # in packing order
    eos: Tensor  # (M,) row of each text's EOS


@dataclass(frozen=True, eq=False)
class Layout:
    prefix: Rows
    chunks: tuple[Chunk, ...]
    order: Tensor  # (C,) where text i stands among the packed ones


def make_layout(ids: Tensor, lengths: Tensor, packing: Packing) -> Layout:
    """Split off the common prefix, sort suffixes by length into buckets, cut into chunks.

    ids (C, T) and lengths (C,): see ``Texts``.
    """
    p = common_rows(ids, lengths, packing.per_class)
    by_length = lengths.argsort(stable=True)  # (C,)
    sizes, counts = (lengths - p).unique(return_counts=True)  # sorted, as by_length is
    buckets = merge_buckets(list(zip(counts.tolist(), sizes.tolist())), packing.bucket_cost)
    chunks, done = [], 0
    for run in split_buckets(buckets, packing.max_rows):
        members = by_length[done : done + sum(count for count, _ in run)]  # (M,)
        done += len(members)
        chunks.append(make_chunk(ids, lengths, members, run, p, packing.per_class))
    order = torch.empty_like(by_length)
    order[by_length] = torch.arange(len(by_length))
    return Layout(Rows.make(ids[0, :p], torch.arange(p)), tuple(chunks), order)


def common_rows(ids: Tensor, lengths: Tensor, per_class: bool) -> int:
    """p: how many rows all texts begin with, one at least being left for the suffix."""
    common = (ids == ids[0]).all(dim=0)  # (T,)
    if per_class:
        common &= ids[0] >= 0
    return min(int(common.cumprod(0).sum()), int(lengths.min()) - 1)


def make_chunk(
    ids: Tensor, lengths: Tensor, members: Tensor, run: list[tuple[int, int]], p: int, per_class: bool
) -> Chunk:
    """members: (M,) indices of the chunk's texts; run: its (count, size) buckets."""
    room = torch.cat([torch.full((count,), size) for count, size in run])  # (M,) rows of each text, filling included
    starts = room.cumsum(0) - room  # (M,)
    last = lengths[members] - p - 1  # (M,) EOS among the rows of its text
    owner = members.repeat_interleave(room)  # (R,) text of each row
    positions = p + torch.arange(len(owner)) - starts.repeat_interleave(room)  # (R,)
    rows = Rows.make(ids[owner, positions], positions, owner if per_class else None)
    return Chunk(rows, make_buckets(run, last, p), starts + last)


def make_buckets(run: list[tuple[int, int]], last: Tensor, p: int) -> tuple[Bucket, ...]:
    """last: (M,) row of each text's EOS among its own."""
    buckets, row, text = [], 0, 0
    for (count, size), eos in zip(run, last.split([count for count, _ in run])):  # (c,)
        rows, texts = slice(row, row + count * size), slice(text, text + count)
        row, text = rows.stop, texts.stop
        causal = torch.ones(size, p + size, dtype=torch.bool).tril(p)  # (s, p + s)
        eos_mask = None if (eos == size - 1).all() else causal[eos][:, None, None]  # (c, 1, 1, p + s)
        buckets.append(Bucket(count, rows, texts, causal if size > 1 else None, eos_mask))
    return tuple(buckets)


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
