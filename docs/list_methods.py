"""Write docs/methods.md: every method of configs/methods.yaml, its paper, its file, and what was published of it.

python docs/list_methods.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from configs import Row, config_file, dataset_file, methods  # noqa: E402
from dassl.config import flatten_cfg  # noqa: E402
from tools.command import parse_args, setup_cfg  # noqa: E402
from tools.results import published  # noqa: E402

HEADER = """# Methods

`--trainer NAME` of `train.py` and the scripts; equations, options and departures are in [method.md](method.md), how to
add one in [adding_a_method.md](adding_a_method.md). Base, new and their harmonic mean H are what was published for
base-to-new generalization (ViT-B/16, 16 shots, mean over eleven data sets), few-shot for training on 16 images of every
class of the same sets, with the settings that are the default here; sources are in `tools/results/published/`. `-`: not
published, or not at hand. *Settings for* are the protocols that have settings of the authors'; a method can be run
under any with settings of your own. Written by `python docs/list_methods.py`.

"""


def options_of(row: Row, protocol: str) -> dict[str, object]:
    """The whole config of the method's usual settings."""
    stem = row.recipe(protocol, "dtd", 16)
    words = ["--trainer", row.name, "--dataset-config-file", dataset_file("dtd")]
    return flatten_cfg(setup_cfg(parse_args([*words, "--config-file", config_file(row.name, stem)])))


def printed_numbers(row: Row, protocol: str, metrics: Sequence[str]) -> list[str]:
    """Of the mean over all data sets, with the settings that are the default."""
    if not (row.zero_shot or row.recipe(protocol, "dtd", 16)):
        return ["-"] * len(metrics)
    config = {} if row.zero_shot else options_of(row, protocol)
    known = {
        one.metric: f"{one.value:.2f}"
        for one in published.select(protocol, "ViT-B/16", 16)
        if (one.method, one.dataset) == (row.printed, "average")
        and all(str(config.get(key)) == value for key, value in published.options_of(one).items())
    }
    return [known.get(metric, "-") for metric in metrics]


def paper(row: Row) -> str:
    """With a link, where it is on arXiv."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", row.paper)


def table() -> str:
    rows = []
    for row in methods().values():
        name = row.name if row.printed == row.name else f"{row.name} ({row.printed})"
        protocols = ", ".join(row.recipes)
        numbers = [
            *printed_numbers(row, "base2new", ("base", "new", "H")),
            *printed_numbers(row, "fewshot", ["accuracy"]),
        ]
        rows.append([name, paper(row), f"`trainers/{row.file}.py`", protocols, *numbers])
    header = ["method", "paper", "file", "settings for", "base", "new", "H", "few-shot"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def main() -> None:
    (ROOT / "docs" / "methods.md").write_text(HEADER + table() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
