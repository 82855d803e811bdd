"""Runs to tables: base-to-new, few-shot, cross-dataset transfer (xd), domain generalization (dg) and pretraining.

A row of a table is a method, its results keyed by (data set, column). Averages over data sets and harmonic means are
further results of the same kind. What papers print is laid beside every result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from itertools import groupby

from . import published
from .published import Published
from .runs import Run, warn
from .sample import Sample, average, harmonic, ranks, verdict

BENCHMARK = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
IMAGENET_SHIFTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
TINY_SHIFTS = ("tiny_source_tint", "tiny_source_noise", "tiny_source_sketch", "tiny_source_warp")
AVERAGE = "average"
ORDER = {name: place for place, name in enumerate(("imagenet_21k", "tiny_source", *BENCHMARK, *IMAGENET_SHIFTS))}
ORDER |= {"xd": 101, "dg": 102, "all": 103}  # a data set that is not listed: 100
COLUMNS = ("base", "new", "H", "accuracy", AVERAGE)
# The data sets of a printed average: ours is compared with it only if it is over the same ones.
PRINTED_OVER = {
    "base2new": set(BENCHMARK),
    "fewshot": set(BENCHMARK),
    "xd": set(BENCHMARK) - {"imagenet"},
    "dg": set(IMAGENET_SHIFTS),
}
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
    """rows: results of each method by (data set, column). shots, source_dataset: of all rows, where they have one."""

    protocol: str
    backbone: str
    shots: int | None
    source_dataset: str
    rows: dict[str, dict[Key, Result]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        about = {
            "base2new": "Base-to-new generalization",
            "fewshot": "Few-shot learning",
            "xd": f"Cross-dataset transfer from {self.source_dataset or 'an unknown source'}",
            "dg": f"Domain generalization from {self.source_dataset or 'an unknown source'}",
            "pretrain": f"Prompts pretrained on {self.source_dataset or 'an unknown source'}: mean transfer",
        }[self.protocol]
        return f"{about}, {self.backbone}" + (
            "" if self.shots is None else ", all images" if self.shots < 0 else f", {self.shots} shots"
        )

    def places(self) -> list[Key]:
        """Every (data set, column) of the table, in the papers' order."""
        return sorted({key for row in self.rows.values() for key in row}, key=_place)


def build(runs: list[Run]) -> list[Table]:
    """Every table that the runs allow."""
    tables = [*base2new(runs), *fewshot(runs), *transfer(runs)]
    return [_ranked(_beside_published(table)) for table in tables if any(table.rows.values())]


def base2new(runs: list[Run]) -> list[Table]:
    """Base, new and H by data set; one table for each backbone and number of shots."""
    halves = [run for run in runs if run.classes in ("base", "new")]
    return [
        Table("base2new", backbone, shots, "", rows_of(group, lambda run: run.dataset, _base2new_row))
        for (backbone, shots), group in grouped(halves, lambda run: run.shots)
    ]


def _base2new_row(runs: list[Run]) -> dict[Key, Result]:
    row = measure(runs, lambda run: (run.dataset, run.classes))
    for column in ("base", "new"):
        add_average(row, column)
    for dataset in {dataset for dataset, _ in row}:
        base, new = row.get((dataset, "base")), row.get((dataset, "new"))
        # An H of averages over different data sets would mean nothing.
        if base and new and base.datasets == new.datasets:
            row[dataset, "H"] = Result(harmonic(base.sample, new.sample), base.runs + new.runs)
    return row


def fewshot(runs: list[Run]) -> list[Table]:
    """Accuracy of runs trained and tested on all classes, shots as columns; or of zero-shot runs if that is all."""
    home = [run for run in runs if _at_home(run)]
    sources = {(run.method, run.setting, run.source) for run in runs if run.source != run.dataset}
    targets = {(run.method, run.setting, run.dataset) for run in home}

    def only_a_source(run: Run) -> bool:
        """Trained to be transferred: its setting was trained on nothing else."""
        return {target for target in targets if target[:2] == (run.method, run.setting)} <= sources

    trained = [run for run in home if not only_a_source(run)]
    datasets = {run.dataset for run in (trained or ([] if home else runs))}
    trained += [run for run in runs if run.zero_shot and run.classes == "all" and run.dataset in datasets]
    return [
        Table("fewshot", backbone, None, "", rows_of(group, lambda run: (run.dataset, run.shots), _fewshot_row))
        for (backbone, _), group in grouped(trained, lambda run: None)
    ]


def _at_home(run: Run) -> bool:
    """Trained on all classes of the data set it is tested on."""
    return run.classes == "all" and not run.zero_shot and (not run.eval_only or run.source == run.dataset)


def _fewshot_row(runs: list[Run]) -> dict[Key, Result]:
    row = measure(runs, lambda run: (run.dataset, str(run.shots)))
    for column in {column for _, column in row}:
        add_average(row, column)
    return row


def transfer(runs: list[Run]) -> list[Table]:
    """Prompts evaluated on other data sets than their own: xd, dg and the means of both, by source and shots."""
    moved = [run for run in runs if run.classes == "all" and run.eval_only and not _at_home(run)]
    if all(run.zero_shot for run in moved):
        return []
    settings = {(run.method, run.setting, run.shots, run.source) for run in moved}
    home = [replace(run, source=run.dataset) for run in runs if _at_home(run)]
    moved += [run for run in home if (run.method, run.setting, run.shots, run.source) in settings]
    tables = []
    for (backbone, (source, shots)), group in grouped(moved, lambda run: (run.source, run.shots)):
        rows = rows_of(group, lambda run: "", lambda one: measure(one, lambda run: (run.dataset, "accuracy")))
        for protocol, shape in (("xd", _xd_row), ("dg", _dg_row), ("pretrain", _pretrain_row)):
            shaped = {name: shape(row, source) for name, row in rows.items()}
            shaped = {name: row for name, row in shaped.items() if set(row) - {(source, "accuracy")}}
            tables.append(Table(protocol, backbone, shots, source, shaped))
    return tables


def _targets(row: dict[Key, Result], source: str, shifted: bool) -> list[str]:
    shifts = (*IMAGENET_SHIFTS, *TINY_SHIFTS)
    return [dataset for dataset, _ in row if dataset != source and (dataset in shifts) == shifted]


def _xd_row(row: dict[Key, Result], source: str) -> dict[Key, Result]:
    """Source, targets and their average, which leaves out ImageNet, as papers do."""
    targets = _targets(row, source, shifted=False)
    row = {key: result for key, result in row.items() if key[0] in (source, *targets)}
    add_average(row, "accuracy", [target for target in targets if target != "imagenet"])
    return row


def _dg_row(row: dict[Key, Result], source: str) -> dict[Key, Result]:
    targets = _targets(row, source, shifted=True)
    row = {key: result for key, result in row.items() if key[0] in (source, *targets)}
    add_average(row, "accuracy", targets)
    return row


def _pretrain_row(row: dict[Key, Result], source: str) -> dict[Key, Result]:
    """Accuracy on the source's own test set, the averages of xd and dg, and the mean over all of their data sets."""
    xd, dg = _xd_row(row, source).get((AVERAGE, "accuracy")), _dg_row(row, source).get((AVERAGE, "accuracy"))
    found = {(source, "accuracy"): row.get((source, "accuracy")), ("xd", AVERAGE): xd, ("dg", AVERAGE): dg}
    if xd and dg:
        parts = [result for (dataset, _), result in row.items() if dataset not in (source, "imagenet")]
        found["all", AVERAGE] = _mean_result(parts)
    return {key: result for key, result in found.items() if result}


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
    parts = [result for (dataset, name), result in row.items() if name == column and dataset in (datasets or [dataset])]
    if len(parts) > 1:
        row[AVERAGE, column] = _mean_result(parts)


def _mean_result(parts: list[Result]) -> Result:
    return Result(average([part.sample for part in parts]), tuple(run for part in parts for run in part.runs))


def _place(key: Key) -> tuple[bool, int, str, int]:
    """Sorts data sets as papers do, others by name, the average last."""
    dataset, column = key
    return (dataset == AVERAGE, ORDER.get(dataset, 100), dataset, column_place(column))


def column_place(column: str) -> int:
    """Sorts columns: base, new, H; shots as numbers."""
    return int(column) if column.isdecimal() else COLUMNS.index(column)


def _beside_published(table: Table) -> Table:
    printed = published_rows(table)
    for row in table.rows.values():
        for (dataset, column), result in row.items():
            run = result.runs[0]
            found = published.find(printed, run.method, run.setting, dataset, column)
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
    for printed in published_rows(table):
        key = (printed.dataset, printed.metric)
        if printed.method not in ours and key in places:
            several = len({row.cfg for row in published_rows(table) if row.method == printed.method}) > 1
            name = f"{printed.method} {printed.cfg.strip('.*')}" if several else printed.method
            table.rows.setdefault(name, {})[key] = Result(None, published=printed)
    return table


def _ranked(table: Table) -> Table:
    """Methods are ranked where there are several, and over the same data sets."""
    for place in table.places():
        rows = [row for row in table.rows.values() if place in row]
        if len(rows) > 1 and len({row[place].datasets for row in rows}) == 1:
            for row, rank in zip(rows, ranks([row[place].value for row in rows])):
                row[place] = replace(row[place], rank=rank)
    return table
