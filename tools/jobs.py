"""Runs of ``train.py`` as jobs: which are done, and how the others are carried out, in order or side by side."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import train
from configs.runs import RunSpec
from dassl.config import solve_batch
from dassl.utils import atomic_write, is_user_error, read_json

from .command import parse_args, setup_cfg

POLL_SECONDS = 0.05
DONE, UNFINISHED, FAILED, OUTDATED, MISSING = "done", "unfinished", "failed", "outdated", "missing"


@dataclass(frozen=True)
class Job:
    """One run of ``train.py``. argv: its arguments; needs: folders of the runs whose prompts it loads.

    ranks: so many processes carry it out together.
    """

    spec: RunSpec
    output_dir: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    ranks: int = 1

    def command(self) -> str:
        start = "python" if self.ranks == 1 else f"torchrun --nproc_per_node {self.ranks}"
        return f"{start} train.py {shlex.join(self.argv)}"

    def environments(self) -> list[dict[str, str]]:
        """What torchrun on one machine would tell each of the processes; nothing to a single one."""
        if self.ranks == 1:
            return [{}]
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        size = {"WORLD_SIZE": str(self.ranks), "LOCAL_WORLD_SIZE": str(self.ranks)}
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), **size}
        return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(self.ranks)]


def shared_out(job: Job, ranks: int) -> Job:
    """The job by several processes if it is a training, with the images a step that it has by one.

    Each makes fewer passes, or has fewer images in one. ``ValueError`` if the images cannot be shared out evenly.
    """
    if ranks < 1:
        raise ValueError(f"--ranks must be 1 or more, but is {ranks}")
    if ranks == 1 or job.spec.evaluation:
        return job
    batch = solve_batch(setup_cfg(parse_args(job.argv)), 1)
    size, total = batch.DATALOADER.TRAIN_X.BATCH_SIZE, batch.OPTIM.GLOBAL_BATCH
    if total % ranks:
        raise ValueError(f"{ranks} processes cannot share {total} images a step evenly, in {job.output_dir}")
    own = size if total % (ranks * size) == 0 else 0  # 0: solved for
    words = {"DATALOADER.TRAIN_X.BATCH_SIZE": own, "OPTIM.ACCUM_STEPS": 0, "OPTIM.GLOBAL_BATCH": total}
    opts = (word for key, value in words.items() for word in (key, str(value)))
    return replace(job, argv=(*job.argv, *opts), ranks=ranks)


def finished(folder: str) -> datetime | None:
    """When the run in ``folder`` ended; ``None`` if it has not. ``ValueError`` for a record that is none."""
    path = Path(folder) / "metrics.json"
    metrics = read_json(str(path)) if path.is_file() else {}
    try:
        return datetime.fromisoformat(metrics["finished"]) if metrics.get("status") == "finished" else None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'"{path}" is no record of a run: remove it, and the run is done again') from error


def states(jobs: Sequence[Job]) -> dict[Job, str]:
    """done, unfinished (will be resumed), failed, missing, or outdated (evaluated prompts that are newer or gone).

    ``jobs`` in the order in which they need each other. ``ValueError`` if folders hold runs of another configuration,
    with the differences.
    """
    found: dict[Job, str] = {}
    changed = []
    for job in jobs:
        try:
            found[job] = _state(job, pending={other.output_dir for other in found if found[other] != DONE})
        except ValueError as error:
            changed.append(str(error))
    if changed:
        more = f"\n... and {len(changed) - 3} more runs" if len(changed) > 3 else ""
        raise ValueError("\n".join(changed[:3]) + more)
    return found


def _state(job: Job, pending: set[str]) -> str:
    folder = Path(job.output_dir)
    known = (folder / "config.yaml").is_file()
    if known:
        from dassl.engine.record import RunRecord  # not at the top: it needs torch, which a usage does not

        cfg = setup_cfg(parse_args(job.argv))
        RunRecord(cfg, cfg.SEED).check_same_config(job.output_dir)
    if not (ended := finished(job.output_dir)):
        return FAILED if (folder / "error.txt").is_file() else UNFINISHED if known else MISSING
    changed = [need for need in job.needs if need in pending or (finished(need) or ended) > ended]
    if changed and not job.spec.evaluation:
        raise ValueError(f'"{folder}" was trained from prompts in "{changed[0]}" that are newer or gone: remove it')
    return OUTDATED if changed else DONE


def work(job: Job, quiet: bool = False) -> int:
    """Carry out the job in this process, one of its ranks; the exit status.

    What went wrong is left in ``<output_dir>/error.txt``, by the rank that it happens to first.
    """
    os.makedirs(job.output_dir, exist_ok=True)
    (told := Path(job.output_dir) / "error.txt").unlink(missing_ok=True)
    try:
        with silence() if quiet else contextlib.nullcontext():
            train.run(parse_args(job.argv))
    except Exception as error:
        if not told.is_file():
            leave_error(job, f"{type(error).__name__}: {error}" if is_user_error(error) else traceback.format_exc())
        return 1
    return 0


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def leave_error(job: Job, message: str) -> None:
    os.makedirs(job.output_dir, exist_ok=True)
    with atomic_write(os.path.join(job.output_dir, "error.txt"), "w") as file:
        file.write(message + "\n")


class Worker(Protocol):
    """Carries out one job at a time, in processes of its own."""

    def start(self, job: Job) -> None: ...

    def poll(self) -> int | None:
        """Exit status of the job, ``None`` while it runs."""

    def stop(self) -> None:
        """End the job at once; it can be resumed."""


class Progress:
    """A line for every job that ends: k of n, its time, the total, and how long the rest will take."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.ended = total, done, 0
        self.begun = time.monotonic()
        print(f"{total} jobs, {done} done already")

    def report(self, job: Job, outcome: str, seconds: float) -> None:
        self.ended += 1
        elapsed = time.monotonic() - self.begun
        left = (self.total - self.done - self.ended) * elapsed / self.ended
        times = f"{clock(seconds)}, elapsed {clock(elapsed)}, eta {clock(left)}"
        print(f"[{self.done + self.ended}/{self.total}] {outcome} {job.output_dir} ({times})", flush=True)


def clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def carry_out(jobs: Sequence[Job], workers: Sequence[Worker]) -> list[Job]:
    """Carry out all jobs that are not done, those that others need first; returns those that failed or were skipped.

    Raises ``ValueError`` before anything runs if a folder holds another configuration. ``KeyboardInterrupt`` (also for
    SIGTERM) ends the running jobs first; a second call goes on where they were.
    """
    found = states(jobs)
    waiting = [job for job in jobs if found[job] != DONE]
    progress = Progress(len(jobs), len(jobs) - len(waiting))
    bad: list[Job] = []
    running: dict[Worker, tuple[Job, float]] = {}
    try:
        with interrupted_by_sigterm():
            while waiting or running:
                _skip_dependants(waiting, bad, progress)
                _start_ready(waiting, workers, running)
                bad += list(_reap(running, progress))
                time.sleep(POLL_SECONDS)
    finally:
        for worker in running:
            worker.stop()
    return bad


def _skip_dependants(waiting: list[Job], bad: list[Job], progress: Progress) -> None:
    broken = {job.output_dir for job in bad}
    for job in [*waiting]:
        if broken & {*job.needs}:
            waiting.remove(job)
            bad.append(job)
            broken.add(job.output_dir)
            progress.report(job, "skipped, as what it needs failed:", 0.0)


def _start_ready(waiting: list[Job], workers: Sequence[Worker], running: dict[Worker, tuple[Job, float]]) -> None:
    """Give every idle worker the first job that needs no run which is still to come."""
    for worker in workers:
        unready = {job.output_dir for job in waiting} | {job.output_dir for job, _ in running.values()}
        job = next((job for job in waiting if not unready & {*job.needs}), None)
        if worker in running or job is None:
            continue
        waiting.remove(job)
        running[worker] = (job, time.monotonic())
        worker.start(job)


def _reap(running: dict[Worker, tuple[Job, float]], progress: Progress) -> Iterator[Job]:
    """Take what has ended out of ``running``; yields the jobs that failed."""
    for worker, (job, begun) in [*running.items()]:
        if (status := worker.poll()) is None:
            continue
        del running[worker]
        seconds = time.monotonic() - begun
        if status == 0:
            progress.report(job, "finished", seconds)
            continue
        progress.report(job, "FAILED", seconds)
        print(f"  {_error_line(job, status)}", file=sys.stderr)
        yield job


def _error_line(job: Job, status: int) -> str:
    """The last line of what the job left, or, if it died without a word, how."""
    path = Path(job.output_dir) / "error.txt"
    if not path.is_file():
        leave_error(job, f"the process ended with status {status}" + (" (out of memory?)" if status == -9 else ""))
    return f"{path}: {path.read_text(encoding='utf-8').strip().splitlines()[-1]}"


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
