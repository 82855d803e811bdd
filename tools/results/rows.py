"""What a table is made of: a row is a method, its results keyed by (data set, column).

Averages over data sets and harmonic means are further results of the same kind.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby

from configs.worlds import EMBEDDED, REAL

from .published import Published
from .runs import Run, warn
from .sample import Sample, average, ranks, verdict

AVERAGE = "average"
ALL_IMAGES = "all images"  # the column after those of 1, 2, 4, ... shots
ORDERED = dict.fromkeys((REAL.pretraining, EMBEDDED.pretraining, *REAL.datasets, *EMBEDDED.datasets, *REAL.shifts))
ORDER = {name: place for place, name in enumerate(ORDERED)}
ORDER |= {"xd": 101, "dg": 102, "all": 103}  # a data set that is not listed: 100
NO_TARGETS = (REAL.source, *EMBEDDED.others)  # in a table of transfers, but not in its average
COLUMNS = ("base", "new", "H", "accuracy", AVERAGE)
# What makes two runs the same recipe; seeds that differ in these are averaged, but not silently.
RECIPE = ("DATALOADER.TRAIN_X.", "INPUT.", "MODEL.BACKBONE.NAME", "OPTIM.", "TRAINER.")

Key = tuple[str, str]  # data set (or average), column


@dataclass(frozen=True)
class Result:
    """Our result, if there is one, its runs, what was published, and the rank among the methods of the table."""

    sample: Sample | None
    runs: tuple[Run, ...] = ()
    published: Published | None = None
    rank: int | None = None

    @property
    def value(self) -> float:
        """Ours, or the published one of a method that was not run."""
        return self.sample.mean if self.sample else self.published.value

    @property
    def datasets(self) -> frozenset[str]:
        return frozenset(run.dataset for run in self.runs)

    @property
    def difference(self) -> float | None:
        return self.sample.mean - self.published.value if self.sample and self.published else None

    @property
    def verdict(self) -> str:
        return verdict(self.sample, self.published.value) if self.sample and self.published else "-"


@dataclass
class Table:
    """rows: results of each method by (data set, column). shots, source_dataset: of all rows, where they have one.

    differences: the rows are differences between two methods.
    """

    protocol: str
    backbone: str
    shots: int | None
    source_dataset: str
    rows: dict[str, dict[Key, Result]] = field(default_factory=dict)
    differences: bool = False

    @property
    def title(self) -> str:
        about = {
            "base2new": "Base-to-new generalization",
            "fewshot": "Few-shot learning",
            "xd": f"Cross-dataset transfer from {self.source_dataset or 'an unknown source'}",
            "dg": f"Domain generalization from {self.source_dataset or 'an unknown source'}",
            "pretrain": f"Prompts pretrained on {self.source_dataset or 'an unknown source'}: mean transfer",
        }[self.protocol]
        return f"{'Differences of the same seeds: ' if self.differences else ''}{about}, {self.backbone}" + (
            "" if self.shots is None else ", all images" if self.shots < 0 else f", {self.shots} shots"
        )

    def places(self) -> list[Key]:
        """Every (data set, column) of the table, in the papers' order."""
        return sorted({key for row in self.rows.values() for key in row}, key=_place)


def grouped(runs: list[Run], key: Callable[[Run], Hashable]) -> list[tuple[tuple[str, Hashable], list[Run]]]:
    """Runs by (backbone, key); zero-shot runs have no key of their own and join every group of their backbone."""
    groups: dict[tuple[str, Hashable], list[Run]] = defaultdict(list)
    for run in runs:
        if not run.zero_shot:
            groups[run.backbone, key(run)].append(run)
    for run in (run for run in runs if run.zero_shot):
        for name in [name for name in groups if name[0] == run.backbone] or [(run.backbone, None)]:
            groups[name].append(run)
    return sorted(groups.items(), key=str)


def rows_of(
    runs: list[Run], where: Callable[[Run], Hashable], shape: Callable[[list[Run]], dict[Key, Result]]
) -> dict[str, dict[Key, Result]]:
    """A row for each method. A method with several settings in the same ``where`` gets a row for each setting.

    Different settings in different places (papers train some data sets longer) stay one row.
    """
    rows = {}
    runs = sorted(runs, key=lambda run: (not run.zero_shot, run.method, run.setting))
    for method, group in groupby(runs, key=lambda run: run.method):
        settings = {name: [*one] for name, one in groupby(group, key=lambda run: run.setting)}
        places = [{where(run) for run in one} for one in settings.values()]
        if sum(map(len, places)) == len(set.union(*places)):
            settings = {"": [run for one in settings.values() for run in one]}
        rows.update({f"{method} {name}".strip(): shape(one) for name, one in settings.items()})
    return rows


def measure(runs: Iterable[Run], key: Callable[[Run], Key]) -> dict[Key, Result]:
    """Accuracy by seed for every (data set, column). Of two runs with the same seed the newer one counts."""
    groups: dict[Key, dict[int, Run]] = defaultdict(dict)
    for run in sorted(runs, key=lambda run: run.finished):
        older = groups[key(run)].get(run.seed)
        if older and older.accuracy != run.accuracy:
            warn(
                f"seed {run.seed} twice: {older.folder} ({older.accuracy:.2f}) is older than {run.folder}, which counts"
            )
        groups[key(run)][run.seed] = run
    for seeds in groups.values():
        _warn_of_mixed_recipes([*seeds.values()])
    return {
        key: Result(Sample.of({seed: seeds[seed].accuracy for seed in sorted(seeds)}), tuple(seeds.values()))
        for key, seeds in groups.items()
    }


def _warn_of_mixed_recipes(runs: list[Run]) -> None:
    first = runs[0].config
    for run in runs[1:]:
        names = [name for name in first.keys() & run.config.keys() if name.startswith(RECIPE)]
        different = [name for name in names if first[name] != run.config[name] and name != "TRAINER.INIT_PROMPTS"]
        if different:
            shown = ", ".join(f"{name}: {first[name]} and {run.config[name]}" for name in sorted(different)[:5])
            warn(f"averaged over seeds although the settings differ: {runs[0].folder} and {run.folder} ({shown})")


def add_average(row: dict[Key, Result], column: str, datasets: list[str] | None = None) -> None:
    """Add the mean over data sets, if there are at least two."""
    parts = [
        result
        for (dataset, name), result in row.items()
        if name == column and (datasets is None or dataset in datasets)
    ]
    if len(parts) > 1:
        row[AVERAGE, column] = mean_result(parts)


def mean_result(parts: list[Result]) -> Result:
    return Result(average([part.sample for part in parts]), tuple(run for part in parts for run in part.runs))


def _place(key: Key) -> tuple[bool, int, str, int]:
    """Sorts data sets as papers do, others by name, the average last."""
    dataset, column = key
    return (dataset == AVERAGE, ORDER.get(dataset, 100), dataset, column_place(column))


def column_place(column: str) -> int:
    """Sorts columns: base, new, H; shots as numbers, all images last."""
    if column == ALL_IMAGES:
        return sys.maxsize
    return int(column) if column.isdecimal() else COLUMNS.index(column)


def rank(table: Table) -> Table:
    """Rank the methods where there are several with results over the same data sets."""
    for place in table.places():
        rows = [row for row in table.rows.values() if place in row]
        if len(rows) > 1 and len({row[place].datasets for row in rows}) == 1:
            for row, number in zip(rows, ranks([row[place].value for row in rows])):
                row[place] = replace(row[place], rank=number)
    return table
