"""Rules of the code base that its syntax shows: which package imports which, and what nobody writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import configs

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "clip": set(),
    "dassl": set(),
    "datasets": {"dassl"},
    "trainers": {"clip", "configs", "dassl"},
    "configs": {"dassl"},
}
OURS = {*ALLOWED, "train", "predict", "tools", "tests", "benchmarks"}
RESTRICTED_LOADER = Path("dassl/utils/safe_load.py")
SPEAKING = ("predict.py", "datasets", "tools", "benchmarks")
ERRORS = Path("dassl/utils/tools.py")  # to standard error, in ``exit_status``
SOURCES = sorted(
    path.relative_to(ROOT)
    for top in OURS
    for path in [*(ROOT / top).rglob("*.py"), ROOT / f"{top}.py"]
    if path.is_file()
)
PRODUCT = [path for path in SOURCES if path.parts[0] != "tests"]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Top-level names of absolute imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def places(path: Path, wanted: type[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    return ((node, f"{path}:{node.lineno}") for node in ast.walk(tree(path)) if isinstance(node, wanted))


def called(path: Path) -> Iterator[tuple[ast.Call, str, str]]:
    """Calls, the name called (the last part of a dotted one), and where."""
    for node, place in places(path, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        yield node, name, place


def test_all_packages_are_looked_at() -> None:
    assert {path.parts[0] for path in SOURCES} >= {*ALLOWED, "tests", "train.py"}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_one_way(package: str) -> None:
    for path in SOURCES:
        if path.parts[0] == package:
            wrong = (OURS & set(imported(path))) - ALLOWED[package] - {package}
            assert not wrong, f"{path} imports {', '.join(wrong)}"


def test_modules_of_clip_import_one_another_one_way() -> None:
    """Who calls whom reads in one direction: no circle, not even for the sake of type hints."""
    graph = {}
    for path in SOURCES:
        if path.parts[0] == "clip":
            nodes = [node for node, _ in places(path, ast.ImportFrom)]
            graph[path.stem] = {node.module for node in nodes if node.level}
    assert "blocks" in graph["text_encoder"] and "text_encoder" in graph["model"]
    assert list(TopologicalSorter(graph).static_order())[-1] == "__init__"


def test_no_bare_except() -> None:
    found = [place for path in SOURCES for node, place in places(path, ast.ExceptHandler) if node.type is None]
    assert not found


def test_no_cuda_and_half_calls() -> None:
    """Devices and precisions are arguments; ``clip.weights.set_precision`` is the one place that halves a model."""
    found = [place for path in PRODUCT for _, name, place in called(path) if name in ("cuda", "half")]
    assert not found


def test_print_only_where_people_look() -> None:
    """All others log, so that one process of several can be the one that speaks."""
    quiet = [path for path in PRODUCT if path.parts[0] not in SPEAKING and path != ERRORS]
    assert {path.parts[0] for path in quiet} >= {"train.py", "clip", "dassl", "trainers"}
    assert not [place for path in quiet for _, name, place in called(path) if name == "print"]


def test_torch_load_runs_no_code() -> None:
    """Every ``torch.load`` says ``weights_only=True``, but in the loader with an unpickler of its own. TorchScript is
    never loaded: its archives bring code that runs."""

    def is_safe(call: ast.Call) -> bool:
        return any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in call.keywords)

    calls = [(path, *found) for path in PRODUCT for found in called(path)]
    loads = [(path, call, place) for path, call, _, place in calls if ast.unparse(call.func) == "torch.load"]
    assert len(loads) > 1
    assert not [place for _, call, _, place in calls if ast.unparse(call.func) == "torch.jit.load"]
    assert not [place for path, call, place in loads if not is_safe(call) and path != RESTRICTED_LOADER]


# A method is a file, a row of the table and its settings

METHOD_FILES = sorted({f"{row.file}.py" for row in configs.methods().values()})
NAMED = re.compile(rf"(?<![\w.])({'|'.join(configs.methods())})(?!\w)")
SHARED = [
    path
    for path in PRODUCT
    if path.parts[0] != "benchmarks" and not (path.parts[0] == "trainers" and path.name in METHOD_FILES)
]


def lines_of_code(path: Path) -> int:
    """Neither blank ones nor comments."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def modules_of_ours(path: Path) -> set[str]:
    """That the file imports directly; ``.coop`` is ``trainers.coop``."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            found.add(f"{path.parts[0]}.{node.module}" if node.level else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in OURS}


def words(path: Path) -> Iterator[tuple[str, str]]:
    """Identifiers and strings, but neither docstrings nor comments, and where they are."""
    docstrings = {id(node.value) for node in ast.walk(tree(path)) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree(path)):
        found = [getattr(node, key, None) for key in ("id", "attr", "name", "arg", "module", "asname")]
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            found.append(node.value)
        yield from ((word, f"{path}:{getattr(node, 'lineno', '?')}") for word in found if isinstance(word, str))


@pytest.mark.parametrize("name", METHOD_FILES)
def test_a_methods_file_is_short_and_imports_little(name: str) -> None:
    path = Path("trainers", name)
    assert lines_of_code(path) <= {"rpp.py": 150}.get(name, 100)
    assert len(modules_of_ours(path)) <= 5, modules_of_ours(path)


def test_the_one_trainer_is_short() -> None:
    assert len((ROOT / "trainers/base.py").read_text(encoding="utf-8").splitlines()) < 200


def test_shared_code_names_no_method() -> None:
    """Nothing is done for one of them alone: what differs is in its file, its row or its settings."""
    assert {path.parts[0] for path in SHARED} >= {*ALLOWED, "tools", "train.py", "predict.py"}
    assert any(NAMED.search(word) for word, _ in words(Path("trainers/pomp.py")))
    found = [f"{place}: {word!r}" for path in SHARED for word, place in words(path) if NAMED.search(word)]
    assert not found
