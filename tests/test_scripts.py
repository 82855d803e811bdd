"""The scripts: what they start, from where, with which data, and one of them in earnest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tools import protocols, sweep
from tools.results import __main__ as results

from .processes import descendants
from .test_torchrun import wait_for
from .tools.small_world import TINY, accuracies, small_world  # noqa: F401 - a fixture

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
WORDS = {  # script: its arguments, and the runs that they take in the embedded world
    "base2new": (("CoOp", "tiny_digits", "1"), 2),
    "fewshot": (("MaPLe", "tiny_digits", "1", "2"), 1),
    "xd": (("CoOp",), 8),
    "dg": (("RPP", "1"), 5),
    "pretrain": (("POMP", "1"), 12),
    "zeroshot": (("ZeroshotCLIP2", "tiny_counts"), 1),
}


def run(script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "PYTHON")} | environment
    return subprocess.run(["bash", SCRIPTS / f"{script}.sh", *words], env=env, capture_output=True, text=True, cwd="/")


@pytest.fixture
def recorder(tmp_path: Path) -> str:
    """An interpreter that only tells where it is started, with what."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\npwd\necho "$DATA"\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("small_world")
@pytest.mark.parametrize("script", WORDS)
def test_what_a_script_starts_runs(script: str, recorder: str, tmp_path: Path) -> None:
    words, count = WORDS[script]
    folder, data, *started = run(script, *words, *TINY, "--out", str(tmp_path), PYTHON=recorder).stdout.splitlines()
    assert folder == str(SCRIPTS.parent) and data == ""
    assert started == ["-m", "tools.protocols", script, *words, *TINY, "--out", str(tmp_path)]
    assert protocols.main(started[2:]) == 0
    assert len(accuracies(tmp_path)) == count


@pytest.mark.usefixtures("small_world")
def test_the_demo_ends_in_tables_and_a_picture(
    recorder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the script starts, with another folder and less of everything."""
    lines = run("demo", "--seeds", "1", PYTHON=recorder).stdout.replace("output/demo", str(tmp_path)).splitlines()
    (first, second) = (place for place, line in enumerate(lines) if line == "-m")
    assert (lines[first + 1], lines[second + 1]) == ("tools.sweep", "tools.results")
    assert sweep.main([*lines[first + 2 : second - 2], *TINY]) == 0  # the recorder tells its folder and data as well
    shown = capfd.readouterr().out
    assert "Differences of the same seeds" in shown and "* RPP pretrained - RPP, mean new: " in shown
    assert results.main(lines[second + 2 : -1]) == 0
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_data_and_python_may_be_relative(recorder: str, tmp_path: Path) -> None:
    words = ["bash", SCRIPTS / "xd.sh", "MaPLe"]
    (tmp_path / "sets").mkdir()
    env = {**os.environ, "PYTHON": f"./{Path(recorder).name}", "DATA": "sets"}
    shown = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True).stdout
    assert shown.splitlines()[1] == str(tmp_path / "sets")
    missing = subprocess.run(words, env={**env, "DATA": "nowhere"}, cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 2 and "DATA=nowhere is no folder" in missing.stderr


@pytest.mark.parametrize("script", WORDS)
def test_help(script: str) -> None:
    shown = run(script, "-h").stdout
    assert f"bash scripts/{script}.sh METHOD" in shown and "#" not in shown


METHODS = sorted(
    folder.name for folder in (SCRIPTS.parent / "configs" / "trainers").iterdir() if folder.name != "_base"
)


@pytest.mark.parametrize("script", WORDS)
@pytest.mark.parametrize("words", [(), ("--dry-run",), ("-h",)], ids=["nothing", "options", "help"])
def test_a_script_without_a_method_says_how_it_is_called(
    script: str, words: tuple[str, ...], recorder: str, tmp_path: Path
) -> None:
    """Its own usage and the methods; no interpreter is started for it, and no package installed."""
    shown = run(script, *words, PYTHON=recorder)
    assert shown.returncode == (0 if words == ("-h",) else 2)
    text, other = (shown.stdout, shown.stderr) if words == ("-h",) else (shown.stderr, shown.stdout)
    assert not other and f"bash scripts/{script}.sh METHOD" in text and "argparse" not in text
    assert text.splitlines()[-1] == f"METHOD is one of: {' '.join(METHODS)}"


COMMANDS = {
    "train": ("train.py", "-h"),
    "predict": ("predict.py", "-h"),
    "protocols": ("tools.protocols", "-h"),
    "protocols without a method": ("tools.protocols", "base2new"),
    "sweep": ("tools.sweep", "-h"),
    "sweep without a file": ("tools.sweep",),
    "plan": ("tools.plan", "-h"),
    "results": ("tools.results", "-h"),
    "data": ("tools.data", "-h"),
    "data fetch": ("tools.data", "fetch", "-h"),
    "data shard": ("tools.data", "shard", "-h"),
    "make_tiny_clip": ("tools.make_tiny_clip", "-h"),
    "world": ("tools.world", "-h"),
}
NAMES_METHODS = ("train", "protocols", "protocols without a method", "plan")


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_imports_nothing_heavy(command: str) -> None:
    """Whoever asks how a command is called does not wait for torch."""
    program, *words = COMMANDS[command]
    start = (
        f"runpy.run_path({program!r}, None, '__main__')"
        if program.endswith(".py")
        else (f"runpy.run_module({program!r}, None, '__main__', alter_sys=True)")
    )
    code = (
        f"import json, runpy, sys; sys.path.insert(0, '.'); sys.argv = {[program, *words]!r}\n"
        f"try: {start}\n"
        "except SystemExit as end: print(json.dumps([end.code or 0, [*sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS.parent, capture_output=True, text=True)
    shown, _, last = done.stdout.strip().rpartition("\n")
    status, modules = json.loads(last)
    assert status == (0 if "-h" in words else 2)
    assert "usage:" in shown + done.stderr
    assert not {"torch", "open_clip", "torchvision", "matplotlib"} & {*modules}
    if command in NAMES_METHODS:
        assert ", ".join(METHODS) in " ".join((shown + done.stderr).split())


def test_a_script_in_earnest(tmp_path: Path) -> None:
    done = run("base2new", "ZeroshotCLIP", "tiny_digits", "--out", str(tmp_path), PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert "* accuracy:" in done.stdout and "Base-to-new generalization" in done.stdout
    assert len(accuracies(tmp_path)) == 2


# Slurm --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for Slurm's commands, first on the PATH: one machine, two tasks a job.

    ``state`` is what squeue tells, ``pids`` are the tasks of the step that runs, ``python`` is the interpreter.
    """
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "state").write_text("RUNNING")
    stand_ins = {
        "sbatch": f"""#!/bin/bash
            export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$PWD" SLURM_JOB_NODELIST=localhost PYTHON={folder}/python
            export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2
            cp "$1" {folder}/slurm_script
            while rm -f {folder}/requeued; do
              bash {folder}/slurm_script "${{@:2}}"; status=$?
              [ -e {folder}/requeued ] || exit $status
            done""",
        "scontrol": f"""#!/bin/sh
            case "$1" in show) echo localhost ;; requeue) touch {folder}/requeued ;; esac""",
        "squeue": f"#!/bin/sh\ncat {folder}/state",
        "srun": f"""#!{sys.executable}
import os, subprocess, sys
words = sys.argv[1:]
count = 1 if "--ntasks=1" in words else 2
command = [word for word in words if not word.startswith("--n") or "=" not in word]
own = [{{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n), "SLURM_NTASKS": str(count)}} for n in range(count)]
tasks = [subprocess.Popen(command, env=os.environ | one) for one in own]
with open("{folder}/pids", "w") as file:
    print(*[task.pid for task in tasks], file=file)
sys.exit(max(code if code >= 0 else 128 - code for code in [task.wait() for task in tasks]))""",
    }
    for name, text in stand_ins.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def interpreter(folder: Path, text: str) -> None:
    (folder / "python").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "python").chmod(0o755)


def sbatch(*words: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("DATA", "PYTHON", "WORLD_SIZE")}
    command = ["sbatch", "scripts/pretrain.slurm", *words]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # tests in the background would leave it ignored
    return subprocess.Popen(command, env=env, cwd=SCRIPTS.parent, text=True, stderr=subprocess.PIPE, preexec_fn=heard)


@pytest.mark.parametrize(
    ("statuses", "state", "ends", "starts"),
    [
        ((130, 0), "RUNNING", 0, 2),  # out of time: goes on
        ((143,), "COMPLETING", 143, 1),  # scancel
        ((2,), "RUNNING", 2, 1),  # a mistake
    ],
    ids=["requeued", "cancelled", "failed"],
)
def test_which_end_of_a_slurm_job_is_none(
    statuses: tuple[int, ...], state: str, ends: int, starts: int, cluster: Path
) -> None:
    """What each process is told, and that the tests come last, once, by one process."""
    (cluster / "state").write_text(state)
    cases = " ".join(f"{n}) exit {status} ;;" for n, status in enumerate(statuses, 1))
    interpreter(
        cluster,
        f"""case "$*" in
        *--dry-run) echo "python train.py --trainer RPP A 'b c'"; echo python train.py other; exit ;;
        esac
        echo "$WORLD_SIZE,$RANK,$LOCAL_RANK,$LOCAL_WORLD_SIZE,$MASTER_ADDR,$MASTER_PORT,$#,$*" >> {cluster}/calls
        case "$*" in train.py*) case $(grep -c "^2,$RANK" {cluster}/calls) in {cases} esac ;; esac""",
    )
    job = sbatch("RPP", "1")
    job.communicate(timeout=200)
    calls = (cluster / "calls").read_text().splitlines()
    trainings = [f"2,{rank},{rank},2,localhost,20007,5,train.py --trainer RPP A b c" for rank in range(2)]
    tests = ",,,,,,6,-m tools.protocols pretrain RPP 1 --ranks 2"
    assert job.returncode == ends
    assert sorted(calls) == sorted([*trainings * starts, *[tests.replace(",6,", ",7,")] * (ends == 0)])


def test_a_slurm_job_in_earnest(cluster: Path, tmp_path: Path) -> None:
    """A training by two tasks that is interrupted ends with its checkpoint, and goes on when it is requeued."""
    interpreter(
        cluster,
        f"""case "$*" in *--dry-run | train.py*) exec {sys.executable} "$@" ;; esac; echo "$@" >> {cluster}/calls""",
    )
    few = ("DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "2", "TRAIN.PRINT_FREQ", "1", "DATALOADER.NUM_WORKERS", "1")
    job = sbatch("CoOp", "1", *few, "--out", str(tmp_path))
    run = tmp_path / "tiny_source/CoOp/tiny_source-max_epoch_2_1shots/seed1"
    wait_for(run / "log.txt", "epoch [1/2] batch [3/", seconds=200)
    for task in map(int, (cluster / "pids").read_text().split()):
        for process in (task, *descendants(task)):  # as Slurm does it
            os.kill(process, signal.SIGINT)
    _, told = job.communicate(timeout=250)
    assert job.returncode == 0, told
    before, after = (path.read_text() for path in sorted(run.glob("log.txt*"), key=os.path.getmtime))
    place = re.search(r"Stopped by SIGINT after (epoch \[1/2\] batch \[.*?\])", before)[1]
    assert f"Going on after {place}" in after
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["status"], metrics["world_size"], metrics["global_batch"]) == ("finished", 2, 32)
    assert len((cluster / "calls").read_text().splitlines()) == 1


def test_a_slurm_script_tells_its_usage() -> None:
    for words, status in ((("-h",), 0), ((), 2)):
        command = ["bash", "scripts/pretrain.slurm", *words]
        shown = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS.parent)
        assert shown.returncode == status
        assert "sbatch scripts/pretrain.slurm METHOD" in shown.stdout + shown.stderr
    env = {**os.environ, "PYTHON": "python"}
    alone = subprocess.run([*command, "RPP"], capture_output=True, text=True, cwd=SCRIPTS.parent, env=env)
    assert alone.returncode != 0 and "start this with sbatch" in alone.stderr


# The environment ------------------------------------------------------------------------------------------------------


def fake_project(folder: Path, version_ok: bool = True) -> dict[str, str]:
    """A project with env.sh alone, and a python3 whose venv has a pip that writes down when it is called."""
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "env.sh").write_text((SCRIPTS / "env.sh").read_text())
    (folder / "requirements.txt").write_text("yacs\n")
    pip = f'#!/bin/sh\\necho "$*" >> {folder}/calls\\n'
    python = folder / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        f'case "$1" in -c) exit {0 if version_ok else 1};; --version) echo Python 3.8.1; exit;; esac\n'
        f"mkdir -p .venv/bin; printf '{pip}' > .venv/bin/python; chmod +x .venv/bin/python\n"
    )
    python.chmod(0o755)
    return {"PATH": f"{python.parent}:{os.environ['PATH']}"}


def source_env(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'source {folder}/scripts/env.sh; echo "$PYTHON"']
    return subprocess.run(words, env=env, capture_output=True, text=True)


def test_packages_are_installed_once_and_when_they_change(tmp_path: Path) -> None:
    env = fake_project(tmp_path)
    for _ in range(2):
        assert source_env(tmp_path, env).stdout == ".venv/bin/python\n"
    calls = tmp_path / "calls"
    assert len(calls.read_text().splitlines()) == 1 and "requirements.txt" in calls.read_text()
    (tmp_path / "requirements.txt").write_text("yacs\ntorch\n")
    source_env(tmp_path, env)
    assert len(calls.read_text().splitlines()) == 2


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    refused = source_env(tmp_path, fake_project(tmp_path, version_ok=False))
    assert refused.returncode == 2 and "3.10 or newer is needed, found: Python 3.8.1" in refused.stderr
    assert not (tmp_path / ".venv").exists()
