"""The installed packages, from a foreign folder: what is in them, that they work, and who else has their names."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image, ImageDraw

from configs import settings_file
from dassl.utils import read_json
from tools import sweep
from tools.results import report

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"output", "data", "build", "dist"}  # of the project's own folder: nothing that belongs to it


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``pip install --target`` put the packages; built from a copy, since building writes beside the sources."""
    folder = tmp_path_factory.mktemp("install")

    def ignored(directory: str, names: list[str]) -> set[str]:
        own = LEFT_OUT if Path(directory) == ROOT else set()
        return {name for name in names if name in own or name == "__pycache__" or name.startswith(".")}

    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    words = "pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-compile --target"
    command = [sys.executable, "-m", *words.split(), str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def python(*words: str, cwd: Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)


def distribution(site: Path) -> Distribution:
    (found,) = distributions(path=[str(site)])
    return found


def test_what_is_installed(site: Path) -> None:
    ours = {"clip", "configs", "dassl", "datasets", "tools", "trainers", "train.py", "predict.py"}
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == ours
    for folder in ("clip", "configs", "dassl", "datasets", "tools", "trainers"):
        inside = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        wanted = {path for path in inside if "__pycache__" not in path.parts}
        assert {path.relative_to(site) for path in (site / folder).rglob("*") if path.is_file()} == wanted


def test_both_lists_of_requirements_are_the_same(site: Path) -> None:
    """``requirements.txt`` installs all in one step; the packages ask for less, and leave the rest to extras."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line]
    declared = [Requirement(text) for text in distribution(site).requires or ()]
    assert sorted(f"{r.name}{r.specifier}" for r in declared) == sorted(f"{r.name}{r.specifier}" for r in wanted)
    extras = {extra: {r.name for r in declared if r.marker and extra in str(r.marker)} for extra in ("tools", "test")}
    assert extras["tools"] == {"matplotlib", "gdown", "submitit"} and "pytest" in extras["test"]


PREDICT = """
import sys
from importlib.resources import files
from trainers import load_classifier
classifier = load_classifier("tiny", ["red circle", "blue star"])
assert classifier.predict("picture.png", topk=1)[0][0][0] == "red circle"
assert (files("configs") / "trainers" / "CoOp" / "tiny.yaml").is_file()
from tools.results import published
assert any(row.method == "MaPLe" for row in published.load())
assert not [name for name in sys.modules if name.partition(".")[0] in ("matplotlib", "submitit", "gdown")]
"""


def test_a_classifier_from_a_foreign_folder(site: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 32), "white")
    ImageDraw.Draw(picture).ellipse((6, 6, 26, 26), fill="red")
    picture.save(tmp_path / "picture.png")
    done = python("-c", PREDICT, cwd=tmp_path, path=[site])
    assert done.returncode == 0, done.stderr
    assert "environment of its own" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_a_training_in_a_foreign_folder(site: Path, tmp_path: Path) -> None:
    """Settings that come with the packages are found by the names that the documents use; results are written here."""
    words = ["--trainer", "CoOp", "--dataset-config-file", "configs/datasets/tiny_digits.yaml"]
    words += ["--config-file", "configs/trainers/CoOp/tiny.yaml", "--seed", "1"]
    done = python("-m", "train", *words, "OPTIM.MAX_EPOCH", "1", "DATASET.NUM_SHOTS", "1", cwd=tmp_path, path=[site])
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["output"]
    (record,) = (tmp_path / "output").rglob("metrics.json")
    assert read_json(str(record))["results"]["test"]["accuracy"] > 10


def test_other_packages_of_the_same_names_are_told(site: Path, tmp_path: Path) -> None:
    others = {"clip": "openai-clip", "datasets": "datasets"}
    for name in others.values():
        info = tmp_path / "others" / f"{name.replace('-', '_')}-3.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 3.1\n")
    done = python("-c", "import clip, datasets", cwd=tmp_path, path=[site, tmp_path / "others"])
    assert done.returncode == 0 and not done.stdout
    for line, (package, other) in zip(done.stderr.splitlines(), others.items(), strict=True):
        assert line.startswith(f"{package}: ") and f"{other} 3.1" in line and str(site / package) in line
        assert "environment of its own" in line


def test_settings_of_the_folder_come_before_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "configs/trainers/CoOp/tiny.yaml"
    assert settings_file(name) == str(ROOT / name)
    assert settings_file("configs/trainers/CoOp/none.yaml") == "configs/trainers/CoOp/none.yaml"
    assert settings_file("trainers/coop.py") == "trainers/coop.py"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert settings_file(name) == name


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    demo = str(ROOT / "configs" / "benchmarks" / "demo.yaml")
    assert sweep.main([demo, "--slurm", "cluster=local", "--out", str(tmp_path)]) == 2
    assert "--slurm needs submitit: pip install 'submitit" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tools.results.plots", raising=False)
    monkeypatch.delattr("tools.results.plots", raising=False)
    with pytest.raises(ValueError, match="--plot needs matplotlib: pip install 'matplotlib"):
        report.plot(argparse.Namespace(plot="radar", out=tmp_path / "radar.png"))
