"""What the documents tell people to do works: commands parse, files exist, the example method learns."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.nn.functional import normalize

import predict
import train
from clip.clip import load_model
from configs import Row
from dassl.engine import TRAINER_REGISTRY
from tools import protocols, sweep
from tools.command import parse_args
from tools.data import __main__ as data
from tools.results.__main__ import parse_args as parse_results
from tools.verify.__main__ import parse_args as parse_verify
from trainers import Method, register
from trainers.method import Batch

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PATHS = re.compile(r"(?<!/)\b(?:configs|scripts|docs|trainers|clip|dassl|datasets|tools|tests|benchmarks)/[\w./+-]*\w")


def commands(document: Path) -> Iterator[list[str]]:
    """Indented command lines and those in tables, continued lines joined, comments and leading variables cut."""
    text = document.read_text().replace("\\\n", " ")
    tables = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    found = re.findall(r"^ {4}((?:[A-Z]+=\S+ )?(?:python|bash) [^|`\n]+)", text, flags=re.MULTILINE)
    for line in found + re.findall(r"[| ]`?((?:[A-Z]+=\S+ )?(?:python|bash) [^|`\n]+)", tables):
        words = shlex.split(line, comments=True)
        yield [word for word in words if not re.fullmatch(r"[A-Z]+=.*", word)]


COMMANDS = [
    pytest.param(c, id=" ".join(c)[:70]) for d in DOCUMENTS for c in commands(d) if not any("..." in word for word in c)
]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse_and_their_files_exist(words: list[str], tmp_path: Path) -> None:
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    program, *argv = words[1:]
    if words[0] == "bash":
        assert (ROOT / program).is_file()
        if (protocol := Path(program).stem) in protocols.PLACES and "--import" not in argv:
            assert protocols.main([protocol, *argv, "--root", str(tmp_path), "--dry-run"]) == 0
    elif program == "train.py":
        parse_args(argv)
    elif program == "predict.py":
        predict.parse_args(argv)
    else:
        assert program == "-m"
        module, *argv = argv
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file() or (
            ROOT / module.replace(".", "/") / "__main__.py"
        ).is_file()
        parsers = {
            "tools.data": data.parse_args,
            "tools.sweep": sweep.parse_args,
            "tools.results": parse_results,
            "tools.protocols": protocols.parse_args,
            "tools.verify": parse_verify,
        }
        if parse := parsers.get(module):
            parse(argv)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    for path in set(PATHS.findall(document.read_text())):
        if "anchored" not in path.lower():  # the example that the reader is to write
            assert (ROOT / path).exists() or ((ROOT / path).parent.is_dir() and "." not in Path(path).name), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Files by their path, and headings as GitHub names them."""
    for target in re.findall(r"\]\((?!http)([^)]+)\)", document.read_text()):
        path, _, heading = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        names = (
            [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()) for line in re.findall(r"^#.+", file.read_text(), re.M)]
            if heading
            else []
        )
        assert not heading or heading in [name.replace(" ", "-") for name in names], target


def test_prompts_to_start_from_lie_where_the_documents_say(capsys: pytest.CaptureFixture[str]) -> None:
    """``--init`` of the commands behind a pretraining names the folder that this pretraining makes."""
    found = [words for words in commands(ROOT / "docs" / "pretraining.md") if "pretrain.sh" in " ".join(words)]
    made = set()
    for words in found:
        assert protocols.main(["pretrain", *words[2:], "--root", "data", "--dry-run"]) == 0
        made.add(re.search(r"--output-dir (\S+)", capsys.readouterr().out)[1])
    text = (ROOT / "docs" / "pretraining.md").read_text()
    assert {path for path in re.findall(r"output/imagenet_21k/RPP/\S+/seed42", text)} <= made


def test_the_list_of_methods_is_that_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    list_methods = importlib.import_module("list_methods")
    assert (ROOT / "docs" / "methods.md").read_text() == list_methods.HEADER + list_methods.table() + "\n", (
        "python docs/list_methods.py writes it anew"
    )


def test_one_version() -> None:
    """That of the package, in the list of changes and in what people cite."""
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> type[Method]:
    """The method of docs/adding_a_method.md, as it stands there, as if it lay in trainers/."""
    code = blocks("python")[0]
    assert len(code.splitlines()) < 60
    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(TRAINER_REGISTRY._objects))
    module = type(sys)("trainers.anchored")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/adding_a_method.md", "exec"), module.__dict__)
    return module.AnchoredCoOp


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "adding_a_method.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_documented_loss_is_what_it_says(example: type[Method]) -> None:
    """CE + 4 mean |t - t0|^2, computed by hand for two images and three classes."""
    image, text, handwritten = (
        normalize(torch.tensor(rows, dtype=torch.float64), dim=1)
        for rows in (
            [[1, 2, 2], [2, -1, 2]],
            [[1, 0, 1], [0, 1, 1], [1, 1, 0]],
            [[1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0]],
        )
    )
    classifier = SimpleNamespace(
        features=lambda image: (image, text),
        cosine_logits=lambda image, text: 10 * image @ text.t(),
        zeroshot=lambda: handwritten,
    )
    terms = example(load_model("tiny")).loss(classifier, Batch.of(image, torch.tensor([1, 0])))
    assert float(terms["ce_loss"]) == pytest.approx(0.0875745812131834, rel=1e-12)
    assert float(terms["anchor_loss"]) == pytest.approx(4 * 0.1026334038989724, rel=1e-12)
    assert float(terms["ce_loss"] + terms["anchor_loss"]) == pytest.approx(0.49810819680907414, rel=1e-12)


def write_settings(folder: Path) -> Path:
    """The documented yaml, whose base is found from anywhere."""
    settings = blocks("yaml")[-1]
    assert yaml.safe_load(settings)["TRAINER"] == {"ANCHOREDCOOP": {"PREC": "fp32"}}
    path = folder / "anchored.yaml"
    path.write_text(settings.replace("_BASE_: ..", f"_BASE_: {ROOT / 'configs/trainers'}"))
    return path


FEW = ("--seed", "1", "DATASET.NUM_SHOTS", "4", "OPTIM.MAX_EPOCH", "3")


def check_learned(folder: Path) -> None:
    log = (folder / "log.txt").read_text()
    assert "anchor_loss" in log
    first, *_, last = re.findall(r"ce_loss \S+ \((\S+)\)", log)
    assert float(last) < float(first)


def test_the_documented_method_learns(example: type[Method], tmp_path: Path) -> None:
    """And its row is one of the table's kind."""
    register(example)
    (row,) = (Row(name, **columns) for name, columns in yaml.safe_load(blocks("yaml")[0]).items())
    assert (row.name, row.file) == (example.__name__, "anchored")
    argv = [
        "--trainer",
        "AnchoredCoOp",
        "--config-file",
        str(write_settings(tmp_path)),
        "--output-dir",
        str(tmp_path / "run"),
    ]
    argv += ["--dataset-config-file", str(ROOT / "configs/datasets/tiny_digits.yaml")]
    assert train.main([*argv, *FEW]) == 0
    check_learned(tmp_path / "run")


def test_the_documented_method_learns_from_outside_of_the_tree(tmp_path: Path) -> None:
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "anchored.py").write_text(blocks("python")[0])
    settings = write_settings(package).relative_to(tmp_path)
    words = ["--import", "my_package.anchored", "--trainer", "AnchoredCoOp", "--config-file", str(settings)]
    words += ["--dataset-config-file", str(ROOT / "configs/datasets/tiny_digits.yaml"), "--output-dir", "run", *FEW]
    subprocess.run([sys.executable, str(ROOT / "train.py"), *words], cwd=tmp_path, check=True, capture_output=True)
    check_learned(tmp_path / "run")
