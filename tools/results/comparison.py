"""Published numbers beside the results of a table."""

from __future__ import annotations

from dataclasses import replace

from configs.runs import variant_of
from configs.worlds import REAL

from . import published
from .published import Published
from .rows import AVERAGE, Key, Result, Table

# The data sets of a printed average: ours is compared with it only if it is over the same ones.
PRINTED_OVER = {
    "base2new": set(REAL.datasets),
    "fewshot": set(REAL.datasets),
    "xd": set(REAL.targets),
    "dg": set(REAL.shifts),
}


def lay_beside_published(table: Table) -> Table:
    """Give every result of ours the number that papers print for it."""
    printed = published_rows(table)
    for row in table.rows.values():
        for (dataset, column), result in row.items():
            found = published.find(printed, result.runs, dataset, column)
            if found and _comparable(table, (dataset, column), result):
                row[dataset, column] = replace(result, published=found)
    return table


def _comparable(table: Table, key: Key, result: Result) -> bool:
    """Averages are, if ours is over the same data sets as the printed one."""
    if AVERAGE not in key:
        return True
    protocol = key[0] if table.protocol == "pretrain" else table.protocol
    return result.datasets == PRINTED_OVER.get(protocol)


def published_rows(table: Table) -> list[Published]:
    """What papers print for a table like this, under the table's own data set and column names."""
    if table.protocol == "fewshot":
        rows = published.select("fewshot", table.backbone)
        return [replace(row, metric=row.shots) for row in rows]
    if table.protocol != "pretrain":
        return published.select(table.protocol, table.backbone, table.shots, table.source_dataset)
    rows = published.select("pretrain", table.backbone, None, table.source_dataset)
    for part in ("xd", "dg"):
        means = published.select(part, table.backbone, None, table.source_dataset)
        rows += [replace(row, dataset=part, metric=AVERAGE) for row in means if row.dataset == AVERAGE]
    return rows


def with_other_methods(table: Table) -> Table:
    """Add rows for the published methods that were not run, wherever ours could be compared with them."""
    results = [(key, result) for row in table.rows.values() for key, result in row.items()]
    places = {key for key, result in results if _comparable(table, key, result)}
    ours = {result.runs[0].method for _, result in results}
    rows = published_rows(table)
    for printed in rows:
        key = (printed.dataset, printed.metric)
        if printed.method not in ours and key in places:
            several = len({row.options for row in rows if row.method == printed.method}) > 1
            name = f"{printed.method} {variant_of(published.options_of(printed))}" if several else printed.method
            table.rows.setdefault(name, {})[key] = Result(None, published=printed)
    return table
