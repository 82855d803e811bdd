"""Jobs in a Slurm queue, by way of submitit: of one task or several, requeued when preempted or out of time."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from tools.jobs import Job, Worker, work

if TYPE_CHECKING:
    import submitit

TIMES_OUT = 1000  # so often a job may run out of time; each time it goes on from where it was
RESERVED = ("INT", "TERM", "USR1")  # have a meaning of their own for a training


class Task:
    """What submitit calls in each task of a job. Of a job for fewer processes than tasks, the others do nothing.

    When submitit's signal comes, before the time limit or a preemption, the run ends as after Ctrl-C: a training after
    the step it is in, with a checkpoint, anything else at once; then submitit puts the job into the queue again. After
    SIGTERM alone it does not decide: Slurm is going to kill the job, and requeues it or not, or to send the signal.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self) -> int:
        import submitit
        from submitit.helpers import TorchDistributedEnvironment

        task = submitit.JobEnvironment()
        if task.global_rank >= self.job.ranks:
            return 0
        if self.job.ranks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        return self._requeued_by(getattr(signal, f"SIG{task.USR_SIG}"), task.global_rank == 0)

    def _requeued_by(self, number: int, is_first: bool) -> int:
        requeue = signal.getsignal(number)  # submitit's own, which would end the first task in the middle of a step
        came, works = False, True

        def end(*_: int | FrameType | None) -> None:
            nonlocal came
            before, came = came, True
            if is_first and works and not before:  # the others end after the same step
                signal.raise_signal(signal.SIGINT)

        signal.signal(number, end)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # it may have been ignored
        try:
            status = work(self.job)
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except SystemExit as ended:
            status = int(ended.code or 0)
        works = False
        while status > 128 and not came:
            time.sleep(0.1)
        if not (came and status):
            return status
        requeue(number, None)  # ends the first task
        raise SystemExit(0)  # without a result, and not as a failure that would end the first one

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit puts into the queue: the same again, which goes on by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmWorker:
    """A job in the queue."""

    def __init__(self, executor: submitit.AutoExecutor) -> None:
        self.executor = executor

    def start(self, job: Job) -> None:
        self.submitted = self.executor.submit(Task(job))

    def poll(self) -> int | None:
        if not self.submitted.done():
            return None
        first = self.submitted.task(0)
        return first.result() if first.exception() is None else 1

    def stop(self) -> None:
        self.submitted.cancel()


def read_settings(words: Sequence[str]) -> dict[str, int | str]:
    """NAME=VALUE of submitit's AutoExecutor; whole numbers are made numbers."""
    if wrong := [word for word in words if "=" not in word]:
        raise ValueError(f"--slurm takes NAME=VALUE,NAME=VALUE, but got {wrong[0]!r}")
    return {name: int(value) if value.isdecimal() else value for name, value in (w.split("=", 1) for w in words)}


def tasks_of(settings: Mapping[str, int | str]) -> int:
    """Of each job."""
    counts = [settings.get(name, 1) for name in ("nodes", "tasks_per_node")]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ValueError(f"--slurm: nodes and tasks_per_node must be whole numbers, but are {counts}")
    return counts[0] * counts[1]


def slurm_workers(settings: Mapping[str, int | str], out: str, count: int) -> list[Worker]:
    """One worker a job; ``settings`` of submitit's AutoExecutor, and its cluster (local: on this machine)."""
    try:
        import submitit
    except ImportError:
        raise ValueError("--slurm needs submitit: pip install 'submitit>=1.5'") from None
    if (number := submitit.JobEnvironment.USR_SIG) in RESERVED:
        raise ValueError(f"SUBMITIT_PREEMPT_SIGNAL must be none of {', '.join(RESERVED)}, but is {number}: unset it")
    given = {"name": "sweep", **settings}
    cluster, times = given.pop("cluster", "slurm"), {"slurm_max_num_timeout": TIMES_OUT}
    try:
        executor = submitit.AutoExecutor(f"{out}/slurm", cluster, **times, local_max_num_timeout=TIMES_OUT)
        executor.update_parameters(**given)
    except (AssertionError, NameError, RuntimeError, ValueError) as error:
        raise ValueError(f"--slurm: {' '.join(str(error).split())}") from error
    return [SlurmWorker(executor) for _ in range(count)]
