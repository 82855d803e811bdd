"""What ``python -m tools.results`` does with its arguments."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.utils import atomic_write

from . import seeds
from .comparison import with_other_methods
from .costs import cost_grid
from .names import printed
from .paired import difference_table, sentences
from .per_class import per_class_grids
from .render import LEGEND, Grid, command_grids, paper_grid, record_grid, render
from .rows import Table
from .runs import Run, read_runs
from .tables import build

ENDINGS = {"": "text", ".txt": "text", ".csv": "csv", ".json": "json", ".md": "markdown", ".tex": "latex"}


def run(args: argparse.Namespace) -> None:
    if args.plot:
        return plot(args)
    form = args.format or form_of(args.out)
    runs = chosen_runs(args)
    if args.test_log:
        return write(seeds.report(runs, args.keyword, args.ci95), args.out)
    if args.compare:
        return write(compared(chosen_tables(runs, args), args.compare, form), args.out)
    text = render(chosen_grids(runs, args, form), form)
    has_tables = not (args.commands or args.per_class or args.costs)
    write(text + (f"\n{LEGEND}\n" if form == "text" and has_tables else ""), args.out)


def form_of(path: Path | None) -> str:
    """The format of a file's ending; ``ValueError`` for an unknown one."""
    ending = path.suffix.lower() if path else ""
    if ending not in ENDINGS:
        known = ", ".join(filter(None, ENDINGS))
        raise ValueError(f'what is "{path}" to be? Choose an ending out of {known}, or --format; figures need --plot')
    return ENDINGS[ending]


def chosen_runs(args: argparse.Namespace) -> list[Run]:
    """Runs by ``--dataset`` and ``--method``; an evaluation stays linked to a training run that is not among them."""
    runs = read_runs(args.paths, args.split)
    for name, chosen in (("dataset", args.dataset), ("method", args.method)):
        known = sorted({getattr(run, name) for run in runs})
        for missing in set(chosen or ()) - set(known):
            raise ValueError(f'no run has the {name} "{missing}"; there are {", ".join(known)}')
        runs = [run for run in runs if not chosen or getattr(run, name) in chosen]
    return runs


def chosen_tables(runs: list[Run], args: argparse.Namespace) -> list[Table]:
    tables = build(runs)
    if not tables:
        raise ValueError(f"{len(runs)} runs were found, but they make no table; --test-log needs none")
    chosen = [table for table in tables if not args.table or table.protocol in args.table]
    if not chosen:
        found = sorted({table.protocol for table in tables})
        raise ValueError(f"the runs make no {' or '.join(args.table)} table, but {', '.join(found)}")
    return [with_other_methods(table) for table in chosen] if args.published else chosen


def chosen_grids(runs: list[Run], args: argparse.Namespace, form: str) -> list[Grid]:
    if args.per_class:
        return per_class_grids(runs, *args.per_class)
    if args.costs:
        return [cost_grid(runs)]
    tables = chosen_tables(runs, args)
    return command_grids(tables) if args.commands else table_grids(tables, form)


def table_grids(tables: list[Table], form: str) -> list[Grid]:
    if form in ("csv", "json"):
        return [record_grid(tables)]
    return [paper_grid(table, printed if form == "latex" else str) for table in tables]


def compared(tables: list[Table], pairs: Sequence[Sequence[str]], form: str) -> str:
    """Differences of rows, in text and Markdown with a sentence for each; ``ValueError`` for a pair of no table."""
    found = [difference_table(table, pairs) for table in tables]
    for first, second in pairs:
        if not any(f"{first} - {second}" in table.rows for table in found):
            names = ", ".join(sorted({name for table in tables for name in table.rows}))
            raise ValueError(f'no table has "{first}" and "{second}" with a seed in common; there are {names}')
    found = [table for table in found if table.rows]
    text = render(table_grids(found, form), form)
    told = dict.fromkeys(line for table in found for line in sentences(table) if form in ("text", "markdown"))
    return "\n".join([text, *(f"* {line}" for line in told), ""]) if told else text


def plot(args: argparse.Namespace) -> None:
    if args.out is None:
        raise ValueError("--plot needs a file: --out figure.png")
    try:
        from . import plots  # not at the top: tables need no matplotlib
    except ModuleNotFoundError as error:
        raise ValueError(f"--plot needs {error.name.partition('.')[0]}: pip install 'matplotlib>=3.8'") from error
    plots.check_ending(args.out)
    if args.plot == "per-class" and not args.per_class:
        raise ValueError("--plot per-class needs the two methods: --per-class A B")
    runs = chosen_runs(args)
    if args.plot == "per-class":
        figure = plots.per_class(per_class_grids(runs, *args.per_class), *args.per_class)
    elif args.plot in ("bars", "radar"):
        figure = {"bars": plots.bars, "radar": plots.radar}[args.plot](chosen_tables(runs, args))
    else:
        figure = plots.epochs(runs) if args.plot == "epochs" else plots.curves(runs, args.plot, args.table)
    plots.save(figure, args.out)


def write(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    with atomic_write(os.fspath(path), "w") as file:
        file.write(text)
