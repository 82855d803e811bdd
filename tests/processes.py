"""Processes of a run as torchrun starts them, forked from a server that has imported everything: they start at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.utils.tensorboard

import datasets  # noqa: F401
import train
import trainers  # noqa: F401
from dassl.engine import TrainerX

Way = tuple[str, int]
NEVER = ("never", 0)
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    local = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    return local | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


class Processes:
    """Calls of ``train.py``, one for each list of arguments, which belong together; the first one is killed that way.

    Standard error goes to files in ``folder``.
    """

    def __init__(self, folder: Path, argvs: Sequence[Sequence[str]], way: Way = NEVER, **changes: str) -> None:
        port, size = free_port(), len(argvs)
        self.errors = [folder / f"stderr{n}" for n in range(size)]
        self.all: list[BaseProcess] = []
        for n, argv in enumerate(argvs):
            own = environment(n, size, port) | changes
            words = [str(word) for word in argv]
            process = SERVER.Process(target=call, args=(own, way if n == 0 else NEVER, words, str(self.errors[n])))
            process.start()
            self.all.append(process)

    def send(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            os.kill(self.all[rank].pid, number)

    def ended(self, *ranks: int) -> list[tuple[int, list[str]]]:
        """Exit status and lines on standard error; of all, or of some, the others being killed then."""
        wanted = ranks or range(len(self.all))
        for rank in wanted:
            self.all[rank].join(150)
        for process in self.all:
            if process.is_alive():
                process.kill()
                process.join()
        return [(self.all[rank].exitcode, self.errors[rank].read_text().splitlines()) for rank in wanted]


def call(own: dict[str, str], way: Way, argv: Sequence[str], errors: str) -> None:
    os.environ |= own
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data loaders, as in a process of its own
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    die_by(*way)
    sys.exit(train.main(argv))


def die_by(way: str, number: int) -> None:
    """Let the process end itself: at the n-th step, write to the disk, or file that takes its place; or after n ms."""
    if way == "step":
        TrainerX.after_step = counted(TrainerX.after_step, number)
    elif way in ("fsync", "replace"):
        setattr(os, way, counted(getattr(os, way), number))
    elif way == "milliseconds":
        threading.Timer(number / 1000, die).start()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counted(function: Callable, number: int) -> Callable:
    seen = 0

    def wrapper(*args: object, **kwargs: object) -> object:
        nonlocal seen
        seen += 1
        if seen == number:
            die()
        return function(*args, **kwargs)

    return wrapper
