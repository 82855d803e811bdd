"""Methods outside the tree: ``--import`` in every command, what a record tells of them, and that it is only told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import predict
import train
from dassl.config import load_yaml
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import read_json
from tools import plan, protocols, sweep
from tools.results.runs import read_runs
from tools.workers import ProcessWorker
from trainers import CoOp, Method, load_classifier, register

from .tools.small_world import accuracies, small_world  # noqa: F401 - a fixture

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = """
from dataclasses import dataclass

from trainers import CoOp
from trainers.method import option

class Rival(CoOp):
    @dataclass(frozen=True)
    class Options(CoOp.Options):
        GIFT: float = option(0.5, least=0)
"""
SETTINGS = load_yaml(PROJECT / "configs/trainers/CoOp/tiny.yaml")
SETTINGS["TRAINER"] = {"RIVAL": {"GIFT": 0.25, **SETTINGS["TRAINER"]["COOP"]}}
SHORT = ("OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "1")
METHOD = ("--trainer", "Rival", "--config-file", "kin/rival.yaml", "--seed", "1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is not ours, with a package ``kin``; what is imported and registered is forgotten again."""
    (tmp_path / "kin").mkdir()
    (tmp_path / "kin" / "__init__.py").write_text("from .rival import Rival\n")
    (tmp_path / "kin" / "rival.py").write_text(SOURCE)
    (tmp_path / "kin" / "rival.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget(monkeypatch)
    yield tmp_path
    forget(monkeypatch)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a process that has imported nothing of the package."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("kin", "needy", "empty", "twin")]:
        monkeypatch.delitem(sys.modules, name)
    kept = {n: t for n, t in TRAINER_REGISTRY._objects.items() if n != "Rival"}
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", kept)


@pytest.fixture
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """A run of the method, whose module is not imported any more."""
    request.getfixturevalue("small_world")
    assert train.main(["--import", "kin.rival", *METHOD, "--output-dir", "run", *SHORT]) == 0
    forget(monkeypatch)
    capsys.readouterr()
    return "run"


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


# Training and what comes after it -------------------------------------------------------------------------------------


def test_a_method_of_the_current_folder_is_trained(run: str) -> None:
    metrics = read_json(f"{run}/metrics.json")
    assert (metrics["trainer"], metrics["trainer_module"]) == ("Rival", "kin.rival")
    assert "GIFT: 0.25" in Path(run, "config.yaml").read_text()


TOLD = 'There is no trainer "Rival"; if it is a method of your own, give --import kin.rival,'


@pytest.mark.parametrize(
    "words",
    [
        [*METHOD, "--output-dir", "run", *SHORT],
        [*METHOD, "--output-dir", "new", "--resume", "run", *SHORT],
        [*METHOD, "--output-dir", "new", "--eval-only", "--model-dir", "run"],
        ["--config-file", "run/config.yaml", "--output-dir", "new"],
    ],
    ids=["again", "resume", "eval-only", "by its config"],
)
def test_a_record_tells_what_to_import(run: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(words) == 2
    assert TOLD in only_line(capsys)
    assert "kin" not in sys.modules and not Path("new").exists()
    assert train.main(["--import", "kin", *words]) == 0


def test_prediction_and_loading(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model-dir", run, "--classes", "red circle", "blue square", "--export", "out.safetensors"]
    assert predict.main(words) == 2 and TOLD in only_line(capsys)
    with pytest.raises(KeyError, match=r"or in Python call trainers\.register"):
        load_classifier(run, ["red circle"])
    assert "kin" not in sys.modules
    assert predict.main(["--import", "kin.rival", *words]) == 0
    assert Path("out.safetensors").is_file()


def test_in_python_the_class_is_registered(run: str) -> None:
    from kin.rival import Rival

    register(Rival)
    register(Rival)  # again, as a notebook does
    classifier = load_classifier(run)
    assert type(classifier.method) is Rival and classifier.method.options.GIFT == 0.25


@pytest.mark.parametrize("module", ["os; evil", "kin.rival\nnext", 3, None, ["kin"]])
def test_a_record_with_anything_else_tells_nothing(
    run: str, module: object, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = read_json(f"{run}/metrics.json")
    Path(run, "metrics.json").write_text(json.dumps({**metrics, "trainer_module": module}))
    assert train.main([*METHOD, "--output-dir", run, *SHORT]) == 2
    assert "give --import MODULE" in only_line(capsys)


def test_a_broken_config_is_told_first(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(run, "config.yaml").write_text("TRAINER: [")
    assert predict.main(["--model-dir", run, "--export", "out", "--classes", "a"]) == 2
    assert "config.yaml" in capsys.readouterr().err.splitlines()[0]


def test_results_keep_its_name_and_import_it_in_commands(run: str) -> None:
    (found,) = read_runs([Path(run).parent])
    assert found.method == "Rival" and not found.zero_shot
    assert " --import kin.rival " in found.command()


# From a folder that is not ours ---------------------------------------------------------------------------------------


def test_train_as_a_script_from_a_foreign_folder(elsewhere: Path) -> None:
    """A script's own folder is on Python's path, the current one is not."""
    words = ["--import", "kin.rival", *METHOD, "--output-dir", "run", "--no-train"]
    done = subprocess.run([sys.executable, PROJECT / "train.py", *words], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0 and "Building custom CLIP" in done.stdout, done.stderr


@pytest.mark.usefixtures("small_world")
def test_a_protocol(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["base2new", "Rival", "tiny_digits", "1", "kin/rival.yaml", *SHORT, "--out", "out", "--import", "kin"]
    assert protocols.main(words) == 0
    assert [*accuracies(Path("out"))] == [
        f"base2new/{part}/tiny_digits/shots_1/Rival/rival-max_epoch_1/seed1" for part in ("test_new", "train_base")
    ]
    assert "Rival" in capfd.readouterr().out.splitlines()[-2]


def test_a_sweep_hands_it_to_its_jobs(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"title": "t", "protocol": "fewshot", "datasets": ["tiny_digits"], "seeds": [1], "shots": [1]}
    method = {"trainer": "Rival", "config": "kin/rival.yaml", "grid": {"TRAINER.RIVAL.GIFT": [0.25, 2.0]}}
    Path("table.yaml").write_text(json.dumps({**table, "methods": [method]}))
    assert sweep.main(["table.yaml", "--import", "kin.rival", "--dry-run"]) == 0
    jobs = capsys.readouterr().out.splitlines()[1:]
    assert len(jobs) == 2 and all("train.py --import kin.rival " in job for job in jobs)
    assert "Rival/rival-gift_2.0_1shots/seed1" in jobs[1]
    (table,) = sweep.read_benchmarks("table.yaml")
    job, *_ = sweep.plan_jobs(table, ("OPTIM.MAX_EPOCH", "1"), imports=["kin.rival"])
    worker = ProcessWorker()
    worker.start(job)
    (process,) = worker.processes
    assert process.wait() == 0, Path(job.output_dir, "error.txt").read_text()


def test_a_benchmark_file_imports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = {"title": "t", "protocol": "fewshot", "datasets": ["tiny_digits"]}
    method = {"trainer": "CoOp", "init": {"method": "Rival", "imports": ["kin.rival"]}}
    Path("table.yaml").write_text(json.dumps({**table, "methods": [method]}))
    assert sweep.main(["table.yaml", "--dry-run"]) == 2
    assert "unknown key of a series 'imports'" in only_line(capsys) and "kin" not in sys.modules


@pytest.mark.usefixtures("small_world")
def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["kin/rival.yaml", "--trainer", "Rival", "--import", "kin.rival"]) == 0
    assert "trainable parameters" in capsys.readouterr().out


@pytest.mark.usefixtures("small_world")
def test_what_else_was_imported_is_not_on_a_runs_record(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that nobody needs it to resume, load or predict."""
    words = [
        "--trainer",
        "CoOp",
        "--seed",
        "1",
        "--output-dir",
        "plain",
        "DATASET.NUM_SHOTS",
        "1",
        "OPTIM.MAX_EPOCH",
        "1",
    ]
    assert train.main(["--import", "kin.rival", *words]) == 0
    text = Path("plain/config.yaml").read_text()
    assert "RIVAL" not in text and "COOP" in text and "INIT_PROMPTS" in text
    TRAINER_REGISTRY._objects.pop("Rival")
    assert load_classifier("plain", ["red circle", "blue star"]).text_features.shape[0] == 2


# Mistakes -------------------------------------------------------------------------------------------------------------

MISTAKES = {
    "kin.rivel": "it is no part of <module 'kin'",
    "nowhere": "there is none in {here} or on Python's path",
    "trainers.rival": "it is no part of <module 'trainers' from",
    "kin/rival.py": "give a module's name, such as my_package.my_method",
    "": "give a module's name",
    ".kin": "give a module's name",
    "needy": "it needs no_such_package, which is not installed",
    "empty": "defines no method, a subclass of trainers.Method",
    "twin": "twin defines CoOp, but so does trainers.coop: rename the class",
}


@pytest.mark.parametrize("module", MISTAKES)
@pytest.mark.parametrize("command", ["train", "predict", "plan", "protocols", "sweep"])
def test_mistakes_end_in_one_line(
    module: str, command: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("needy.py").write_text("import no_such_package\n")
    Path("empty.py").write_text("from trainers import CoOp, Method\n")
    Path("twin.py").write_text("import trainers\n\nclass CoOp(trainers.CoOp):\n    pass\n")
    program, words = {
        "train": (train, ["--trainer", "CoOp"]),
        "predict": (predict, ["--images", "kin/rival.yaml", "--classes", "a"]),
        "plan": (plan, ["--trainer", "CoOp"]),
        "protocols": (protocols, ["base2new", "CoOp"]),
        "sweep": (sweep, [str(PROJECT / "configs/benchmarks/demo.yaml")]),
    }[command]
    assert program.main([*words, f"--import={module}"] if command != "train" else [f"--import={module}", *words]) == 2
    line = only_line(capsys)
    assert module in line and MISTAKES[module].format(here=elsewhere) in line
    assert TRAINER_REGISTRY.get("CoOp").method is CoOp and not Path("output").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["base2new", "Rival"], "unknown method 'Rival'"),
        (["base2new", "Rivel", "--import", "kin"], "unknown method 'Rivel'; did you mean Rival"),
        (["base2new", "Rival", "--import", "kin"], "Rival has no settings in configs/trainers: give CFG, the path of"),
        (["base2new", "Rival", "dtd", "--root", "/d", "--import", "kin"], "Rival has no settings in configs/trainers"),
        (["base2new", "Rival", "tiny_digits", "1", "rival", "--import", "kin"], "Rival has no settings in"),
        (["base2new", "Rival", "tiny_digits", "1", "kin/x.yaml", "--import", "kin"], "no settings (CFG) kin/x.yaml"),
    ],
)
def test_a_protocol_needs_its_settings(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert protocols.main(words) == 2
    assert text in only_line(capsys)


def test_only_its_own_methods_are_registered(elsewhere: Path) -> None:
    from trainers import import_methods

    before = set(TRAINER_REGISTRY.registered_names())
    assert issubclass(import_methods("kin").Rival, Method)
    assert set(TRAINER_REGISTRY.registered_names()) - before == {"Rival"}
