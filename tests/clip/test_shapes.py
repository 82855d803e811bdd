"""Where a tensor of ``clip/`` or ``trainers/`` changes its shape, a comment says the new one, in explained letters."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for package in ("clip", "trainers") for path in sorted((ROOT / package).glob("*.py"))]
RESHAPING = {
    *("cat", "chunk", "expand", "flatten", "movedim", "permute", "repeat", "repeat_interleave", "reshape", "split"),
    *("squeeze", "stack", "swapaxes", "t", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view"),
}
SHAPE = re.compile(r"\(([\w+*/ .-]+(?:, [\w+*/ .-]+)*),?\)")


def reshapes(node: ast.AST) -> bool:
    """A call of one of these methods or functions, or an index with None. Strings split at nothing or at a string."""
    if isinstance(node, ast.Subscript):
        return any(isinstance(part, ast.Constant) and part.value is None for part in indices(node.slice))
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in RESHAPING:
        return False
    is_text = not node.args or (isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str))
    return not (node.func.attr == "split" and is_text)


def indices(index: ast.expr) -> list[ast.expr]:
    return index.elts if isinstance(index, ast.Tuple) else [index]


def statements(tree: ast.Module) -> Iterator[tuple[range, list[ast.expr]]]:
    """The lines of each statement, or of a compound one's header, and the expressions there."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.stmt):
            types = (getattr(statement, "annotation", None), getattr(statement, "returns", None))
            own = [n for n in ast.iter_child_nodes(statement) if isinstance(n, ast.expr) and n not in types]
            last = max((node.end_lineno for node in own), default=statement.lineno)
            end = last if hasattr(statement, "body") else statement.end_lineno
            yield range(statement.lineno, end + 1), own


def comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def reshaping_lines(source: str) -> dict[int, bool]:
    """Lines that reshape, and whether a shape stands in a comment there, or further down in the same statement."""
    said = {line for line, comment in comments(source).items() if SHAPE.search(comment)}
    found = {}
    for lines, expressions in statements(ast.parse(source)):
        for node in (node for expression in expressions for node in ast.walk(expression) if reshapes(node)):
            line = node.func.end_lineno if isinstance(node, ast.Call) else node.end_lineno
            found[line] = any(other in said for other in lines if other >= line)
    return found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = x.flatten(2)  # (B, D, T)", {1: True}),
        ("x = x.flatten(2)  # rows behind one another", {1: False}),
        ("x = torch.cat(\n    [x, y]\n)  # (R,)", {1: True}),
        ("x = y[:, None]\nz = y[None]  # (1, B)", {1: False, 2: True}),
        ("if x.t():  # (D, B)\n    y = x.view(3)", {1: True, 2: False}),
        ("words, x = line.split(), name.split('.')", {}),
        ("a, b = x.split([1, 2], dim=-1)", {1: False}),
        ("found: dict[str, None] = {}", {}),
    ],
)
def test_what_counts_as_reshaping(source: str, expected: dict[int, bool]) -> None:
    assert reshaping_lines(source) == expected


@pytest.mark.parametrize(("package", "least"), [("clip", 30), ("trainers", 10)])
def test_reshaping_lines_say_the_new_shape(package: str, least: int) -> None:
    files = [path for path in FILES if path.parent.name == package]
    found = {f"{path.name}:{n}": said for path in files for n, said in reshaping_lines(path.read_text("utf-8")).items()}
    assert len(found) > least
    silent = [place for place, said in found.items() if not said]
    assert len(silent) <= 0.1 * len(found), f"{len(silent)} of {len(found)}: {', '.join(silent)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_letters_of_shapes_are_explained(path: Path) -> None:
    """Single letters in a comment's shape stand in the docstring of the module, after the word Letters."""
    source = path.read_text("utf-8")
    shapes = [shape for comment in comments(source).values() for shape in SHAPE.findall(comment)]
    used = {letter for shape in shapes for letter in re.findall(r"\b[A-Za-z]\b", shape)}
    _, _, legend = (ast.get_docstring(ast.parse(source)) or "").partition("Letters: ")
    assert used <= set(re.findall(r"\b[A-Za-z]\b", legend)), "not explained"
