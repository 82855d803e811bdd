"""Columns as papers print them."""

from __future__ import annotations

from configs.worlds import printed as dataset_printed

from .rows import AVERAGE

_PRINTED = {"xd": "Targets", "dg": "Shifted sets", "all": "All sets", AVERAGE: "Average"}  # parts of a table


def printed(dataset: str) -> str:
    """The name in figures and LaTeX; somebody's own data set keeps its name."""
    return _PRINTED.get(dataset) or dataset_printed(dataset)
