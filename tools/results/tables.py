"""Runs to tables: base-to-new, few-shot, cross-dataset transfer (xd), domain generalization (dg) and pretraining."""

from __future__ import annotations

from dataclasses import replace

from configs.worlds import EMBEDDED, REAL

from .comparison import lay_beside_published
from .rows import (
    ALL_IMAGES,
    AVERAGE,
    NO_TARGETS,
    Key,
    Result,
    Table,
    add_average,
    grouped,
    mean_result,
    measure,
    rank,
    rows_of,
)
from .runs import Run
from .sample import harmonic

__all__ = ["Table", "build"]


def build(runs: list[Run]) -> list[Table]:
    """Every table that the runs allow."""
    tables = [*base2new(runs), *fewshot(runs), *transfer(runs)]
    return [lay_beside_published(rank(table)) for table in tables if any(table.rows.values())]


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
    """Accuracy of runs trained and tested on all classes, shots as columns.

    Zero-shot runs stand beside those of their data set, or alone if no other method was run with their backbone.
    """
    home = [run for run in runs if _at_home(run)]
    sources = {(run.method, run.setting, run.source) for run in runs if run.source != run.dataset}
    targets = {(run.method, run.setting, run.dataset) for run in home}

    def only_a_source(run: Run) -> bool:
        """Trained to be transferred: its setting was trained on nothing else."""
        return {target for target in targets if target[:2] == (run.method, run.setting)} <= sources

    trained = [run for run in home if not only_a_source(run)]
    beside = {(run.backbone, run.dataset) for run in trained}
    busy = {run.backbone for run in runs if not run.zero_shot and run.classes == "all"}
    for run in (run for run in runs if run.zero_shot and run.classes == "all"):
        if (run.backbone, run.dataset) in beside or run.backbone not in busy:
            trained.append(run)
    return [
        Table("fewshot", backbone, None, "", rows_of(group, lambda run: (run.dataset, run.shots), _fewshot_row))
        for (backbone, _), group in grouped(trained, lambda run: None)
    ]


def _at_home(run: Run) -> bool:
    """Trained on all classes of the data set it is tested on."""
    return run.classes == "all" and not run.zero_shot and (not run.eval_only or run.source == run.dataset)


def _fewshot_row(runs: list[Run]) -> dict[Key, Result]:
    row = measure(runs, lambda run: (run.dataset, ALL_IMAGES if run.shots < 0 else str(run.shots)))
    for column in {column for _, column in row}:
        add_average(row, column)
    return row


def transfer(runs: list[Run]) -> list[Table]:
    """Prompts evaluated on other data sets than their own: xd, dg and the means of both, by source and shots."""
    moved = [run for run in runs if run.classes == "all" and run.eval_only and not _at_home(run)]
    moved = [run for run in moved if any(run.backbone == other.backbone and not other.zero_shot for other in moved)]
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
    shifts = (*REAL.shifts, *EMBEDDED.shifts)
    return [dataset for dataset, _ in row if dataset != source and (dataset in shifts) == shifted]


def _xd_row(row: dict[Key, Result], source: str) -> dict[Key, Result]:
    """Source, targets and their average, which leaves out ImageNet, as papers do, and what is not of the family."""
    targets = _targets(row, source, shifted=False)
    row = {key: result for key, result in row.items() if key[0] in (source, *targets)}
    add_average(row, "accuracy", [target for target in targets if target not in NO_TARGETS])
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
        parts = [result for (dataset, _), result in row.items() if dataset not in (source, *NO_TARGETS)]
        found["all", AVERAGE] = mean_result(parts)
    return {key: result for key, result in found.items() if result}
