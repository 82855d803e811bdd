"""Tables to text: a terminal table, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tabulate import tabulate

from .names import printed
from .rows import Key, Result, Table, column_place
from .runs import Run

BY_DATASET = ("base2new", "fewshot")  # protocols with a block of rows for each data set; the others have columns
LEGEND = (
    "±: half of the 95 % interval of the mean over seeds (Student's t). difference: ours - published; inside, above, "
    "below: our interval has the published value inside or lies above or below it; -: unknown, or one seed only. "
    "(n): an average over n data sets only, fewer than another method's."
)
_INTERVAL = " ±: half of the 95 % interval over seeds."
_NARROW = 6  # columns of a table that fits into one of the page's two
_LATEX = {letter: f"\\{letter}" for letter in "&%_#${}"}
_LATEX |= {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", "±": r"$\pm$"}


@dataclass
class Grid:
    """A titled table of texts or numbers.

    labels: number of leading columns that hold names. best: the (row, column) of what is printed in bold.
    """

    title: str
    header: list[str]
    rows: list[list[Any]]
    labels: int
    best: set[tuple[int, int]] = field(default_factory=set)


def render(grids: list[Grid], form: str) -> str:
    """``grids`` in one of ``tools.results.FORMATS``. CSV and JSON hold one table: their grids share a header."""
    if form == "csv":
        return _csv(grids)
    if form == "json":
        records = [dict(zip(grid.header, row)) for grid in grids for row in grid.rows]
        return json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    writer = {"text": _text, "markdown": _markdown, "latex": _latex}[form]
    return "\n\n".join(writer(grid) for grid in grids) + "\n"


def _csv(grids: list[Grid]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(grids[0].header)
    for row in (row for grid in grids for row in grid.rows):
        writer.writerow([";".join(map(str, value)) if isinstance(value, list) else value for value in row])
    return file.getvalue()


def _tabulate(grid: Grid, rows: list[list[str]], form: str) -> str:
    align = ["left"] * grid.labels + ["right"] * (len(grid.header) - grid.labels)
    return tabulate(rows, grid.header, tablefmt=form, disable_numparse=True, colalign=align if rows else None)


def _text(grid: Grid) -> str:
    return f"{grid.title}\n{_tabulate(grid, _shown(grid), 'simple')}"


def _markdown(grid: Grid) -> str:
    rows = [[value.replace("|", r"\|") for value in row] for row in _shown(grid, "**{}**")]
    return f"### {grid.title}\n\n{_tabulate(grid, rows, 'github')}"


def _latex(grid: Grid) -> str:
    """A table with booktabs' rules, one between data sets; wide ones run over both columns of the page."""
    escaped = replace(grid, rows=[[_escape(value) for value in row] for row in _shown(grid)])
    lines = [" & ".join(row) + r" \\" for row in _shown(escaped, r"\textbf{{{}}}")]
    for place in range(len(lines) - 1, 0, -1):
        if grid.header[0] == "data set" and grid.rows[place][0] != grid.rows[place - 1][0]:
            lines.insert(place, r"\midrule")
    float_ = "table*" if len(grid.header) > _NARROW else "table"
    interval = _INTERVAL if any("$\\pm$" in line for line in lines) else ""
    header = " & ".join(map(_escape, grid.header)) + r" \\"
    body = "\n".join(f"    {line}" for line in (r"\toprule", header, r"\midrule", *lines, r"\bottomrule"))
    return rf"""\begin{{{float_}}} % \usepackage{{booktabs}}
  \centering
  \caption{{{_escape(grid.title)}.{_escape(interval)}}}
  \label{{tab:{re.sub("[^a-z0-9]+", "-", grid.title.lower()).strip("-")}}}
  \begin{{tabular}}{{{"l" * grid.labels}{"r" * (len(grid.header) - grid.labels)}}}
{body}
  \end{{tabular}}
\end{{{float_}}}"""


def _escape(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _shown(grid: Grid, bold: str = "{}") -> list[list[str]]:
    def show(value: Any, best: bool) -> str:
        text = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
        return bold.format(text) if best else text

    return [[show(value, (i, j) in grid.best) for j, value in enumerate(row)] for i, row in enumerate(grid.rows)]


# The papers' layout


def paper_grid(table: Table, named: Callable[[str], str] = str) -> Grid:
    """Rows of ours, published, difference for each method; the best of ours in bold. ``named`` names data sets."""
    places = table.places()
    if table.protocol in BY_DATASET:
        columns = sorted({column for _, column in places}, key=column_place)
        blocks = [[(dataset, column) for column in columns] for dataset in dict.fromkeys(name for name, _ in places)]
        labels = ["data set", "method", ""]
        headings = [_shots(column) if column.isdecimal() else column for column in columns]
    else:
        blocks, labels, headings = [places], ["method", ""], [heading(place, table, named) for place in places]
    grid = Grid(printed_title(table, named), labels + headings, [], len(labels))
    for block in blocks:
        _add_block(grid, table, block, named)
    return grid


def _shots(number: str) -> str:
    return f"{number} shot" if number == "1" else f"{number} shots"


def heading(key: Key, table: Table, named: Callable[[str], str] = str) -> str:
    dataset, column = key
    name = f"{named(dataset)} {column}" if column == "average" else named(dataset)
    return f"{name} (source)" if dataset == table.source_dataset else name


def printed_title(table: Table, named: Callable[[str], str] = printed) -> str:
    source = table.source_dataset
    return table.title.replace(source, named(source)) if source else table.title


def _add_block(grid: Grid, table: Table, places: list[Key], named: Callable[[str], str]) -> None:
    sign = "+" if table.differences else ""
    compared = any(result.published for row in table.rows.values() for result in row.values())
    widest = {
        place: max((len(row[place].datasets) for row in table.rows.values() if place in row), default=0)
        for place in places
    }
    for method, row in table.rows.items():
        results = [row.get(place) for place in places]
        if not any(results):
            continue
        names = [named(places[0][0]), method] if table.protocol in BY_DATASET else [method]
        best = [number for number, result in enumerate(results) if result and result.rank == 1]
        grid.best |= {(len(grid.rows), grid.labels + number) for number in best}  # ours is the first line
        grid.rows += [[*names, kind, *texts] for kind, texts in _lines(results, [*widest.values()], compared, sign)]


def _lines(
    results: list[Result | None], widest: list[int], compared: bool, sign: str
) -> Iterator[tuple[str, list[str]]]:
    """The kind and the texts of each line of a method; widest: most data sets that any method's average is over."""
    ours = [result.sample for result in results if result and result.sample]
    if ours:
        counts = {len(sample.by_seed) for sample in ours}
        seeds = "-".join(str(count) for count in sorted({min(counts), max(counts)}))
        yield f"{seeds} seed{'' if seeds == '1' else 's'}", [_value(*one, sign) for one in zip(results, widest)]
    if compared:
        yield "published", [f"{r.published.value:.2f}" if r and r.published else "-" for r in results]
    if any(result and result.difference is not None for result in results):
        yield "difference", [_difference(result) for result in results]


def _value(result: Result | None, widest: int, sign: str) -> str:
    if result is None or result.sample is None:
        return "-"
    half_width = result.sample.half_width
    spread = "" if half_width is None else f" ±{half_width:.2f}"
    return f"{result.sample.mean:{sign}.2f}{spread}" + (
        f" ({len(result.datasets)})" if len(result.datasets) < widest else ""
    )


def _difference(result: Result | None) -> str:
    return "-" if result is None or result.difference is None else f"{result.difference:+.2f} {result.verdict}"


# One record for each result


def record_grid(tables: list[Table]) -> Grid:
    """Everything known of each result at full precision, for CSV and JSON."""
    records = [
        _record(table, method, key, row[key])
        for table in tables
        for key in table.places()
        for method, row in table.rows.items()
        if key in row
    ]
    header = [*records[0]] if records else []
    return Grid("results", header, [[*record.values()] for record in records], 0)


def _record(table: Table, method: str, key: Key, result: Result) -> dict[str, Any]:
    sample, printed = result.sample, result.published
    return {
        "protocol": table.protocol,
        "backbone": table.backbone,
        "shots": table.shots,
        "source_dataset": table.source_dataset,
        "method": method,  # or two of them, and their difference
        "settings": sorted({run.setting for run in result.runs if run.setting}),
        "dataset": key[0],
        "metric": key[1],
        "mean": sample and sample.mean,
        "ci95": sample and sample.half_width,
        "datasets": len(result.datasets),
        "seeds": [*sample.by_seed] if sample else [],
        "rank": result.rank,
        "published": printed and printed.value,
        "difference": result.difference,
        "verdict": result.verdict,
        "published_source": printed and printed.source,
        "runs": [str(run.folder) for run in result.runs],
    }


def command_grids(tables: list[Table]) -> list[Grid]:
    """The configuration and the command of every run, by table."""
    header = ["data set", "classes", "method", "seed", "config", "command"]
    return [
        Grid(f"Commands: {table.title}", header, [*map(_command, _runs_of(table))], len(header)) for table in tables
    ]


def _runs_of(table: Table) -> list[Run]:
    runs = {run.folder: run for row in table.rows.values() for result in row.values() for run in result.runs}
    return sorted(runs.values(), key=lambda run: (run.dataset, run.classes, run.method, run.setting, run.seed))


def _command(run: Run) -> list[str]:
    return [run.dataset, run.classes, run.method, str(run.seed), str(run.folder / "config.yaml"), run.command()]
