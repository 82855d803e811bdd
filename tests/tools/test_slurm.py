"""Jobs by way of submitit, in its local executor: requeued by its signal, as they would be on a cluster."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.runs import RunSpec
from tools import slurm, sweep
from tools.jobs import Job

from ..processes import children, descendants
from ..test_kills import check_same, go, words
from ..test_torchrun import wait_for

RUN = RunSpec("RPP", "tiny_shapes")


def local(folder: Path, **settings: int) -> slurm.SlurmWorker:
    (worker,) = slurm.slurm_workers({"cluster": "local", "timeout_min": 5, **settings}, str(folder), 1)
    return worker


def ended(worker: slurm.SlurmWorker) -> int:
    while (status := worker.poll()) is None:
        time.sleep(0.1)
    return status


@pytest.mark.parametrize(("size", "first"), [(1, "SIGTERM"), (2, "SIGINT")], ids=["one task", "two tasks"])
def test_a_preempted_training_goes_on_in_the_queue(size: int, first: str, tmp_path: Path) -> None:
    """From the step that the signal came in, bit for bit. SIGTERM, which Slurm may send before it, only stops it."""
    (whole := tmp_path / "whole").mkdir()
    assert [status for status, _ in go(whole, words(whole, "RPP", size), size)] == [0] * size
    worker = local(tmp_path, tasks_per_node=size)
    worker.start(Job(RUN, str(tmp_path / "run"), tuple(map(str, words(tmp_path, "RPP", size))), ranks=size))
    wait_for(log := tmp_path / "run" / "log.txt", "epoch [1/3] batch [3/10]", seconds=200)
    controller = int(worker.submitted.job_id)
    if first == "SIGTERM":
        os.kill(children(controller)[0], signal.SIGTERM)
        wait_for(log, "Stopped by SIGTERM")
    for process in descendants(controller):  # loaders as well: Slurm signals all processes of a step
        os.kill(process, signal.SIGUSR2)
    assert ended(worker) == 0
    before, after = (path.read_text() for path in sorted(tmp_path.glob("run/log.txt*"), key=os.path.getmtime))
    place = re.search(rf"Stopped by {first} after (epoch \[./3\] batch \[.*/10\])", before)[1]
    assert f"Going on after {place}" in after
    check_same(tmp_path, whole)


# In one process -------------------------------------------------------------------------------------------------------


@pytest.fixture
def requeued(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A first task of submitit's, whose own handler of the signal only notes it, and ends the task."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    found: list[int] = []

    def requeue(number: int, _: object) -> None:
        found.append(number)
        raise SystemExit(144)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGINT)}
    signal.signal(signal.SIGUSR2, requeue)
    yield found
    for number, handler in handlers.items():
        signal.signal(number, handler)


def task(monkeypatch: pytest.MonkeyPatch, work: Callable[[], int]) -> slurm.Task:
    monkeypatch.setattr(slurm, "work", lambda job: work())
    return slurm.Task(Job(RUN, "run", ()))


def preempt() -> int:
    signal.raise_signal(signal.SIGUSR2)
    return 0


def test_what_is_no_training_is_requeued_at_once(requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    one = task(monkeypatch, preempt)
    with pytest.raises(SystemExit) as end:
        one()
    assert end.value.code == 144 and requeued == [signal.SIGUSR2]
    assert one.checkpoint().function is one


@pytest.mark.parametrize("status", [0, 1])
def test_what_ends_by_itself_is_not_requeued(status: int, requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert task(monkeypatch, lambda: status)() == status and not requeued


def test_tasks_that_a_job_has_no_use_for_end_at_once(requeued: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of an evaluation, which is carried out by the first."""
    one = task(monkeypatch, preempt)
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "1")
    assert one() == 0 and not requeued


def test_another_task_leaves_quietly_what_the_first_one_requeues(
    requeued: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training ends with the first one's, so the signal does not end it: it may come before it or after."""
    monkeypatch.setenv("SUBMITIT_LOCAL_GLOBALID", "1")
    monkeypatch.setenv("SUBMITIT_LOCAL_NTASKS", "2")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "1")
    monkeypatch.setattr(os, "environ", {**os.environ})  # the task adds to it
    signal.signal(signal.SIGUSR2, lambda *_: requeued.append(1))  # submitit's only says that the first one does it
    went_on: list[int] = []

    def work(job: Job) -> int:
        went_on.append(preempt())
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "work", work)
    with pytest.raises(SystemExit) as end:
        slurm.Task(Job(RUN, "run", (), ranks=2))()
    assert end.value.code == 0 and went_on == [0] and requeued == [1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["gpu"], "NAME=VALUE"),
        (["cluster=local,nodes=2"], "only one node"),
        (["cluster=local,nodes=two"], "must be whole numbers, but are ['two', 1]"),
        (["cluster=local,local_partition=gpu"], "--slurm: Unknown argument 'partition'"),
        (["cluster=local", "--ranks", "2"], "--ranks and --slurm do not go together: give tasks_per_node=N"),
    ],
)
def test_mistakes(words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = "configs/benchmarks/embedded_fewshot.yaml"
    assert sweep.main([file, "--out", str(tmp_path), "--slurm", *words]) == 2
    error = capsys.readouterr().err
    assert text in error and len(error.splitlines()) == 1


def test_a_signal_that_a_training_understands_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("submitit.JobEnvironment.USR_SIG", "USR1")
    with pytest.raises(ValueError, match=r"SUBMITIT_PREEMPT_SIGNAL must be none of .*USR1"):
        local(tmp_path)
