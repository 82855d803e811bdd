"""``train.py`` in several processes, as torchrun starts them: what they leave behind, what they say when one errs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from .processes import Processes, free_port

ROOT = Path(__file__).parent.parent
CLEAN = {k: v for k, v in os.environ.items() if k not in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")}
CLEAN |= {"OMP_NUM_THREADS": "1"}


def words(output: Path, *opts: object) -> list[str]:
    run = ("--trainer", "CoOp", "--seed", 1, "--output-dir", output, "--timeout", 5)
    few = ("DATASET.NUM_SHOTS", 1, "OPTIM.MAX_EPOCH", 2, "DATALOADER.NUM_WORKERS", 1)
    return [str(word) for word in (*run, *few, *opts)]


def torchrun(size: int, argv: Sequence[str]) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={size}", f"--master_port={free_port()}"]
    command = [sys.executable, *launcher, "train.py", *argv]
    return subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, text=True, timeout=200)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_of_two_processes(tmp_path: Path) -> None:
    """The same images a step as one process, with its losses; one log, whose every line is there once."""
    runs = {}
    for size in (1, 2):
        outcome = torchrun(size, words(tmp_path / str(size), "DATALOADER.TRAIN_X.BATCH_SIZE", 32 // size))
        assert outcome.returncode == 0, outcome.stderr
        runs[size] = json.loads((tmp_path / str(size) / "metrics.json").read_text())
    assert [(runs[n]["world_size"], runs[n]["global_batch"]) for n in runs] == [(1, 32), (2, 32)]
    losses = [[epoch["loss"] for epoch in runs[n]["history"]] for n in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    results = [runs[n]["results"]["test"] for n in runs]
    assert results[0]["total"] == results[1]["total"] == 1600
    assert abs(results[0]["accuracy"] - results[1]["accuracy"]) <= 0.5
    log = (tmp_path / "2" / "log.txt").read_text()
    assert "Images a step: 32 = processes (2) x BATCH_SIZE (16) x ACCUM_STEPS (1)" in log
    for line in ("Finished training", "=> result", "Evaluate on the *test* set"):
        assert log.count(line) == 1
    assert len(re.findall(r"epoch \[2/2\] batch \[2/2\]", log)) == 1
    names = [[re.sub(r"tfevents.*", "", name) for name in files(tmp_path / str(size))] for size in (1, 2)]
    assert names[0] == names[1]


def test_processes_with_other_options_are_refused(tmp_path: Path) -> None:
    """Told once, with the option; nothing is written."""
    both = [words(tmp_path / "run", "OPTIM.LR", rate) for rate in (0.1, 0.2)]
    (first, told), (second, rest) = Processes(tmp_path, both).ended()
    assert (first, second) == (2, 2) and not rest
    assert len(told) == 1 and "OPTIM.LR is 0.1 on rank 0 and 0.2 on rank 1" in told[0]
    assert not (tmp_path / "run").exists()


def test_a_mistake_of_one_machine_is_told_with_its_rank(tmp_path: Path) -> None:
    own = [words(tmp_path / "run", "MODEL.BACKBONE.PATH", path) for path in ("", "gone.safetensors")]
    (first, told), (second, rest) = Processes(tmp_path, own).ended()
    assert (first, second) == (2, 2) and not rest
    assert len(told) == 1 and "on rank 1: " in told[0] and "gone.safetensors" in told[0]
    assert files(tmp_path / "run") == ["log.txt"]


@pytest.mark.parametrize("environment", [{"MASTER_ADDR": ""}, {"LOCAL_RANK": "one"}, {"RANK": "7"}])
def test_an_environment_that_is_incomplete(environment: dict[str, str], tmp_path: Path) -> None:
    ((status, told),) = Processes(tmp_path, [words(tmp_path / "run")], WORLD_SIZE="2", **environment).ended()
    name = next(iter(environment))
    assert status == 2 and len(told) == 1 and name in told[0] and not (tmp_path / "run").exists()


def wait_for(path: Path, text: str, seconds: int = 60) -> None:
    for _ in range(10 * seconds):
        if path.is_file() and text in path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{text} did not come")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_rank_that_is_lost_ends_the_others(end: signal.Signals, tmp_path: Path) -> None:
    """With a line, within the timeout, and a checkpoint to go on from."""
    run = tmp_path / "run"
    processes = Processes(tmp_path, [words(run, "OPTIM.MAX_EPOCH", 5000, "TRAIN.PRINT_FREQ", 1)] * 2)
    wait_for(run / "log.txt", "epoch [3/5000]")
    processes.send(end, 1)
    ((status, told),) = processes.ended(0)
    assert status == 2 and len(told) == 1, told
    assert "rank 0 of 2 has lost another one" in told[0] and "the same command goes on" in told[0]
    assert (run / "prompt_learner" / "model-last.pth.tar").is_file()
