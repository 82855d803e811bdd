"""Workers on this machine: forked children where the platform has them, or new interpreters, on a GPU each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tools.jobs import Job, Worker, work


class ForkWorker:
    """Forked children: what this process has imported is there already. The device must not have been touched."""

    def __init__(self, quiet: bool = False, side_by_side: int = 1) -> None:
        import torch.utils.tensorboard

        import datasets  # noqa: F401
        import trainers  # noqa: F401
        from clip.simple_tokenizer import tokenizer

        self.quiet, self.threads = quiet, max(1, torch.get_num_threads() // side_by_side)
        tokenizer()  # its vocabulary is read once, and every child has it

    def start(self, job: Job) -> None:
        fork = multiprocessing.get_context("fork")
        self.processes = [fork.Process(target=self._child, args=(job, own)) for own in job.environments()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which libraries start when imported
            for process in self.processes:
                process.start()

    def _child(self, job: Job, environment: dict[str, str]) -> None:
        os.environ |= environment
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and stops this child
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        import torch

        torch.set_num_threads(max(1, self.threads // job.ranks))
        tqdm.set_lock(threading.RLock())  # a thread of the parent may have held the old one when this child was forked
        sys.exit(work(job, self.quiet))

    def poll(self) -> int | None:
        return common_status([process.exitcode for process in self.processes])

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def common_status(statuses: Sequence[int | None]) -> int | None:
    """The first one that is not 0; ``None`` while a process runs."""
    return None if None in statuses else next(filter(None, statuses), 0)


class ProcessWorker:
    """New processes, which see one GPU, or all."""

    def __init__(self, gpu: str | None = None, quiet: bool = True) -> None:
        self.gpu, self.quiet = gpu, quiet

    def start(self, job: Job) -> None:
        device = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu, "TQDM_DISABLE": "1"}
        code = f"import sys; from tools.jobs import Job, RunSpec, work; sys.exit(work({job!r}, {self.quiet}))"
        project = Path(__file__).resolve().parents[1]
        path = os.pathsep.join(filter(None, [str(project), os.environ.get("PYTHONPATH")]))
        common = {**os.environ, **device, "PYTHONPATH": path}
        self.processes = [
            subprocess.Popen([sys.executable, "-c", code], env={**common, **own}, start_new_session=True)
            for own in job.environments()
        ]

    def poll(self) -> int | None:
        return common_status([process.poll() for process in self.processes])

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


def local_worker(quiet: bool = False, side_by_side: int = 1) -> Worker:
    """The cheapest worker of this platform; so many of them share the CPU's threads."""
    forks = "fork" in multiprocessing.get_all_start_methods()
    return ForkWorker(quiet, side_by_side) if forks else ProcessWorker(quiet=quiet)
