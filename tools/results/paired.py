"""Differences between two methods of a table, seed by seed: what several seeds can tell, and what they can't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .rows import AVERAGE, Key, Result, Table
from .runs import PRINTED
from .sample import Sample

Pair = tuple[str, str]


def difference_table(table: Table, pairs: Sequence[Pair]) -> Table:
    """A row ``A - B`` for each pair of rows that the table has, its values paired over seeds.

    A name is a method's, or a method's and parts of its setting (``RPP qkv_shared``). A pair with a row that is not
    there is left out, as is a place where the two have no seed in common.
    """
    rows = {}
    for first, second in pairs:
        ours, theirs = find_row(table, first), find_row(table, second)
        if ours is not None and theirs is not None:
            row = {key: _difference(ours[key], theirs[key]) for key in ours if key in theirs}
            rows[f"{first} - {second}"] = {key: result for key, result in row.items() if result}
    return replace(table, rows={name: row for name, row in rows.items() if row}, differences=True)


def find_row(table: Table, name: str) -> dict[Key, Result] | None:
    """The row of that name, or that with the shortest setting among those of the method that have all its parts."""
    if name in table.rows:
        return table.rows[name]
    method, *parts = name.split()
    method = PRINTED.get(method, method)
    found = [
        row_name
        for row_name, row in table.rows.items()
        if any(run.method == method for result in row.values() for run in result.runs[:1])
        and all(part in row_name for part in parts)
    ]
    return table.rows[min(found, key=len)] if found else None


def _difference(ours: Result, theirs: Result) -> Result | None:
    """``None`` for averages over different data sets, and where no seed is common. Zero-shot results have no seed."""
    if not (ours.sample and theirs.sample) or ours.datasets != theirs.datasets:
        return None
    first, second = ours.sample.by_seed, theirs.sample.by_seed
    if all(run.zero_shot for run in theirs.runs):
        second = dict.fromkeys(first, theirs.sample.mean)
    by_seed = {seed: value - second[seed] for seed, value in first.items() if seed in second}
    return Result(Sample.of(by_seed), ours.runs + theirs.runs) if by_seed else None


def sentences(differences: Table) -> list[str]:
    """One for each pair at each summary: the source, averages; without averages at every place."""
    places = differences.places()
    summaries = [place for place in places if AVERAGE in place or place[0] == differences.source_dataset]
    return [
        f"{name}, {_where(place, differences)}: {_told(row[place].sample)}"
        for name, row in differences.rows.items()
        for place in summaries or places
        if place in row
    ]


def _where(place: Key, table: Table) -> str:
    dataset, column = place
    if dataset == table.source_dataset:
        return f"{dataset} (source)"
    if AVERAGE not in place:
        return f"{dataset} {column}"
    part = dataset if column == AVERAGE else table.protocol  # a table of pretraining has the means of xd and dg
    named = {"xd": "mean of the targets", "dg": "mean of the shifted sets", "all": "mean of all"}
    return named.get(part, f"mean of {column} shots" if column.isdecimal() else f"mean {column}")


def _told(sample: Sample) -> str:
    """The difference with its interval, and whether that leaves zero out."""
    seeds, width = len(sample.by_seed), sample.half_width
    if width is None:
        return f"{sample.mean:+.1f} points in one seed, which tells nothing of others"
    certain = "better" if sample.mean > width else "worse" if sample.mean < -width else "no certain difference"
    return f"{sample.mean:+.1f} ± {width:.1f} points in {seeds} seeds: {certain}"
