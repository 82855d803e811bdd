"""The processes of a run: torchrun's ranks, and what they tell one another.

    torchrun --nproc_per_node 2 train.py ...

Every rank holds the whole model and carries out the same program on its share of the images and of the class texts;
between steps all have the same numbers. A run of one process never touches ``torch.distributed``.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dassl.utils.logger import log
from dassl.utils.tools import is_user_error

__all__ = ["LostRankError", "Ranks", "acting_as", "current", "start"]

Result = TypeVar("Result")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK")


class LostRankError(ConnectionError):
    """Another rank has ended, or has not answered in time."""


class Ranks:
    """This process among ``size``; ``rank`` counts from 0. A single one has nobody to talk to, and nothing to wait for.

    Whatever is a message here must be sent by all ranks, in the same order.
    """

    def __init__(self, size: int = 1, rank: int = 0) -> None:
        self.size, self.rank = size, rank
        self.on_this_machine = _number("LOCAL_WORLD_SIZE", size) if size > 1 else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that logs and writes."""
        return self.rank == 0

    # Shares -----------------------------------------------------------------------------------------------------------

    def mine(self, items: Any) -> Any:
        """This rank's share of a sequence or tensor: every ``size``-th item."""
        return items[self.rank :: self.size]

    def all_rows(self, mine: Tensor, count: int) -> Tensor:
        """(C, E) from each rank's (share, E), with ``count`` = C. The gradient of a row is summed over the ranks and
        goes to the rank that it came from."""
        if self.size == 1:
            return mine
        most = -(-count // self.size)
        padded = torch.cat([mine, mine.new_zeros(most - len(mine), *mine.shape[1:])])
        rows = _Gather.apply(padded, self)  # (size, most, E)
        return rows.transpose(0, 1).flatten(0, 1)[:count]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks; one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with self._told():
            dist.all_reduce(flat)
        means = (flat / self.size).split([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means):
            tensor.detach().copy_(mean.view_as(tensor))

    # Messages between hosts -------------------------------------------------------------------------------------------

    def gather(self, value: Result) -> list[Result]:
        """Every rank's value, by rank. Not for what comes in every step."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._told():
            dist.all_gather_object(found, value)
        return found

    def join(self, mine: Tensor, most: int) -> tuple[Tensor, slice]:
        """The ranks' (n,) whole numbers, on the host, behind one another, and where this one's are; n is at most
        ``most``. In every step this short message tells whether all are still there."""
        if self.size == 1:
            return mine, slice(0, len(mine))
        sent = torch.full((most + 1,), len(mine))
        sent[1 : 1 + len(mine)] = mine
        found = [torch.empty_like(sent) for _ in range(self.size)]
        with self._told():
            dist.all_gather(found, sent)
        parts = [numbers[1 : 1 + int(numbers[0])] for numbers in found]
        before = sum(len(part) for part in parts[: self.rank])
        return torch.cat(parts), slice(before, before + len(mine))

    def highest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.size == 1:
            return number
        with self._told():
            dist.all_reduce(found := torch.tensor(number), op=dist.ReduceOp.MAX)
        return int(found)

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Let the first rank do it; its result, or its error, is everybody's."""
        if self.size == 1:
            return work()
        result, error = None, None
        if self.is_first:
            try:
                result = work()
            except Exception as caught:
                error = caught
        said: list[Any] = [(result, error is None)]
        with self._told():
            dist.broadcast_object_list(said)
        if error is not None:
            raise error
        if not said[0][1]:
            raise SystemExit(2)  # the first rank tells why
        return said[0][0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part, without messages, that all ranks get through or none: the first one tells what went wrong where."""
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        if self.size == 1:
            if error is not None:
                raise error
            return
        told = self.gather("" if error is None else f"{_text(error)}")
        if not any(told):
            return
        if error is not None and (self.is_first or not is_user_error(error)):
            raise error
        if not self.is_first:
            raise SystemExit(2)
        where = next(rank for rank, text in enumerate(told) if text)
        raise ValueError(f"on rank {where}: {told[where]}")

    def check_same(self, facts: dict[str, Any]) -> None:
        """``ValueError`` that names the facts that are not the same on all ranks."""
        told = self.gather({name: str(value) for name, value in facts.items()})
        with self.together():
            for rank, theirs in enumerate(told):
                for name, ours in told[0].items():
                    if theirs.get(name) != ours:
                        what = f"{name} is {ours} on rank 0 and {theirs.get(name)} on rank {rank}"
                        raise ValueError(f"The processes of a run must agree, but {what}")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the network reports of a rank that is gone, as one line."""
        try:
            yield
        except RuntimeError as error:
            why = " ".join(str(error).split("\n")[0].split())[:160]
            raise LostRankError(
                f"rank {self.rank} of {self.size} has lost another one, which ended or did not answer in time ({why});"
                " the same command goes on from the last checkpoint"
            ) from error


class _Gather(torch.autograd.Function):
    """(m, E) of each rank -> (size, m, E)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        found = [torch.empty_like(rows) for _ in range(ranks.size)]
        with ranks._told():
            dist.all_gather(found, rows.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        with ctx.ranks._told():
            dist.all_reduce(total)
        return total[ctx.ranks.rank], None


def _text(error: Exception) -> str:
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error) or type(error).__name__


_current = Ranks()


def current() -> Ranks:
    """The ranks that ``start`` joined; a single one before that."""
    return _current


@contextmanager
def acting_as(ranks: Ranks) -> Iterator[None]:
    """Let these be the current ones: for a plan, which does one rank's work without the others."""
    global _current
    before, _current = _current, ranks
    try:
        yield
    finally:
        _current = before


def start(timeout: float) -> Ranks:
    """Join the processes that torchrun has started; they agree within ``timeout`` seconds, here and ever after.

    NCCL carries what is on GPUs, gloo the rest. ``ValueError`` for an environment that is incomplete, or more processes
    than GPUs; ``LostRankError`` if the others do not come.
    """
    global _current
    if (size := _number("WORLD_SIZE", 1)) == 1:
        return _current
    if missing := [name for name in ADDRESS if not os.environ.get(name)]:
        raise ValueError(
            f"WORLD_SIZE is {size} in the environment, but {missing[0]} is not set: start several processes with"
            f" torchrun --nproc_per_node {size} train.py ..., or unset WORLD_SIZE"
        )
    rank, local = _number("RANK"), _number("LOCAL_RANK")
    if not 0 <= rank < size:
        raise ValueError(f"RANK is {rank} in the environment, but must be below WORLD_SIZE, {size}")
    if torch.cuda.is_available():
        if local >= (gpus := torch.cuda.device_count()):
            raise ValueError(f"LOCAL_RANK is {local}, but this machine has {gpus} GPUs: one process uses one GPU")
        torch.cuda.set_device(local)
    ranks = Ranks(size, rank)
    if not ranks.is_first:
        log.setLevel("WARNING")
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (lives as long as the process)
    with ranks._told():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    _current = ranks
    return ranks


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name) or default
    try:
        return int(text)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a whole number in the environment, but is {text!r}") from None


def stop() -> None:
    """Leave the others; nobody waits."""
    global _current
    if _current.size > 1:
        dist.destroy_process_group()
        _current = Ranks()
