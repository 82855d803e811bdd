"""What the documents tell people to do works: commands parse, files exist, the example method learns."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import predict
import train
from dassl.engine import TRAINER_REGISTRY
from tools import protocols, sweep
from tools.results.__main__ import parse_args as parse_results

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PATHS = re.compile(
    r"\b(?:configs|scripts|docs|trainers|clip|dassl|datasets|tools|tests|benchmarks|published)/[\w./+-]*\w"
)


def commands(document: Path) -> Iterator[list[str]]:
    """Indented command lines, continued lines joined, comments and leading variables cut."""
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"^(?: {4}|\| `?)((?:[A-Z]+=\S+ )?(?:python|bash) [^|`\n]+)", text, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        yield [word for word in words if not re.fullmatch(r"[A-Z]+=.*", word)]


COMMANDS = [pytest.param(c, id=" ".join(c)[:70]) for d in DOCUMENTS for c in commands(d) if "..." not in c]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse_and_their_files_exist(words: list[str]) -> None:
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    program, *argv = words[1:]
    if words[0] == "bash":
        assert (ROOT / program).is_file()
    elif program == "train.py":
        train.parse_args(argv)
    elif program == "predict.py":
        predict.parse_args(argv)
    else:
        assert program == "-m"
        module, *argv = argv
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file() or (
            ROOT / module.replace(".", "/") / "__main__.py"
        ).is_file()
        parsers = {
            "tools.sweep": sweep.parse_args,
            "tools.results": parse_results,
            "tools.protocols": protocols.parse_args,
        }
        if parse := parsers.get(module):
            parse(argv)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    for path in set(PATHS.findall(document.read_text())):
        if "kgcoop" not in path.lower():  # the example that the reader is to write
            assert (ROOT / path).exists() or ((ROOT / path).parent.is_dir() and "." not in Path(path).name), path


def test_the_documented_method_learns_and_is_short(tmp_path: Path) -> None:
    """docs/adding_a_method.md, run as it stands."""
    text = (ROOT / "docs" / "adding_a_method.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    settings = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[0]
    assert len(code.splitlines()) < 60
    assert yaml.safe_load(settings)["TRAINER"] == {"KGCOOP": {"PREC": "fp32"}}
    (tmp_path / "tiny.yaml").write_text(settings)
    module = type(sys)("trainers.kgcoop")
    module.__package__ = "trainers"
    exec(compile(code, "docs/adding_a_method.md", "exec"), module.__dict__)
    try:
        argv = [
            "--trainer",
            "KgCoOp",
            "--config-file",
            str(tmp_path / "tiny.yaml"),
            "--output-dir",
            str(tmp_path / "run"),
        ]
        argv += ["--dataset-config-file", str(ROOT / "configs/datasets/tiny_digits.yaml"), "--seed", "1"]
        assert train.main([*argv, "DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3"]) == 0
    finally:
        TRAINER_REGISTRY._objects.pop("KgCoOp")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "kg_loss" in log
    first, *_, last = re.findall(r"ce_loss \S+ \((\S+)\)", log)
    assert float(last) < float(first)
