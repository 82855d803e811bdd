"""Reads the files that users write: lists of images (CSV or JSON) and maps from folder or label to class name."""

import csv
import io
import itertools
import unicodedata
from pathlib import Path
from typing import NamedTuple

from dassl.utils import read_json, read_text, reading
from dassl.utils.registry import nearest_names

from .checks import first

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
HEADERS = ("folder", "label", "class")  # first cells that mark a heading in a class-name map


class Row(NamedTuple):
    """One line of a list of images."""

    path: str
    key: str  # what tells classes apart: the label, or the class name where there is no label
    classname: str  # "" where the list has none
    part: str  # train, val or test


def read_rows(path: Path) -> list[Row]:
    """Read a list with the columns path, label or classname (or both) and, optionally, split."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file; DATASET.NAME CSV needs a .csv or .json list (for folders: Folder)")
    records = _read_json(path) if path.suffix.lower() == ".json" else _read_csv(path)
    if not records:
        raise ValueError(f"{path} lists no images")
    columns = list(records[0])
    wanted = [] if "label" in columns or "classname" in columns else ["label (or classname)"]
    wanted = wanted if "path" in columns else ["path", *wanted]
    if wanted:
        raise ValueError(f"{path} has no column {' and no column '.join(wanted)}; its columns: {', '.join(columns)}")
    return [_row(path, number, record) for number, record in enumerate(records, 1)]


def read_names(path: Path) -> dict[str, str]:
    """Read a class-name map: two columns of a CSV file, or a JSON object. Keys are folders or labels."""
    if not path.is_file():
        raise FileNotFoundError(f"no class-name file {path} (DATASET.CLASSNAMES)")
    if path.suffix.lower() == ".json":
        content = read_json(str(path))
        rows = list(content.items()) if isinstance(content, dict) else []
    else:
        rows = [row for row in _csv_rows(path) if row]
        rows = rows[1:] if rows and rows[0][0].strip().lower() in HEADERS else rows
    if not rows or any(len(row) != 2 or not str(row[1]).strip() for row in rows):
        raise ValueError(
            f"{path} is no class-name map: expected 'folder or label,class name' in each line of a .csv, "
            'or {"folder or label": "class name", ...} in a .json'
        )
    return {_text(key): _text(name) for key, name in rows}


def name_for(key: str, names: dict[str, str] | None) -> str:
    """Class name of a folder or label: from the map if there is one, else the key itself."""
    key = _text(key)
    if names is None:
        return key
    if key not in names:
        near = nearest_names(key, names) or list(names)
        raise ValueError(
            f"class {key!r} is not in the class-name file (DATASET.CLASSNAMES); it has {len(names)} names: "
            f"{first(near)}"
        )
    return names[key]


def _row(path: Path, number: int, record: dict[str, object]) -> Row:
    cells = {column: _text(value) for column, value in record.items() if column and value is not None}
    key = cells.get("label") or cells.get("classname")
    if not cells.get("path") or not key:
        raise ValueError(f"{path}, image {number}: empty path or label")
    part = cells.get("split", "train").lower()
    if part not in PARTS:
        raise ValueError(f"{path}, image {number}: split {part!r} is none of {', '.join(PARTS)}")
    return Row(str(record["path"]).strip(), key, cells.get("classname", ""), PARTS[part])


def _text(value: object) -> str:
    """Text in composed form: file systems and editors disagree about accents."""
    return unicodedata.normalize("NFC", str(value).strip())


def _csv_rows(path: Path) -> list[list[str]]:
    text = read_text(str(path))
    with reading(str(path), "a CSV file"):
        return list(csv.reader(io.StringIO(text), delimiter=max(";\t,", key=text.partition("\n")[0].count)))


def _read_csv(path: Path) -> list[dict[str, object]]:
    heading, *rows = _csv_rows(path) or [[]]
    columns = [column.strip().lower() for column in heading]
    return [dict(itertools.zip_longest(columns, row, fillvalue="")) for row in rows if row]


def _read_json(path: Path) -> list[dict[str, object]]:
    content = read_json(str(path))
    if not isinstance(content, list) or not all(isinstance(record, dict) for record in content):
        raise ValueError(f'{path}: expected a list of objects, [{{"path": ..., "label": ..., "split": ...}}, ...]')
    return content
