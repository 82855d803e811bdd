"""Tables of all runs below a folder, beside the published numbers.

python -m tools.results output                                  # every table the runs allow, on the terminal
python -m tools.results output --table base2new --out base2new.tex
python -m tools.results output --format csv > results.csv       # one line for each result
python -m tools.results output --commands                       # the config and the command behind every number
python -m tools.results output --compare RPP POMP               # differences, paired over seeds
python -m tools.results output --costs                          # parameters, seconds and memory of every method
python -m tools.results output --per-class MaPLe CoCoOp --dataset dtd
python -m tools.results output --plot shots --out shots.pdf   # as wide as a column or a page, fonts inside
python -m tools.results output/dtd/CoOp/vit_b16_16shots --test-log   # mean and deviation over seeds
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dassl.utils import exit_status

from . import FORMATS, TABLES
from .report import run


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folders with runs anywhere below them")
    parser.add_argument("--table", nargs="+", choices=TABLES, help="only these tables")
    parser.add_argument("--dataset", nargs="+", help="only these data sets, e.g. dtd")
    parser.add_argument("--method", nargs="+", help="only these methods")
    parser.add_argument("--published", action="store_true", help="also rows of published methods that were not run")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of --out, else text")
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--commands", action="store_true", help="list the config and command of every run")
    parser.add_argument("--costs", action="store_true", help="what each method costs to train and to test")
    parser.add_argument(
        "--compare", nargs=2, action="append", metavar=("A", "B"), help="A - B, paired over seeds; may be repeated"
    )
    parser.add_argument("--per-class", nargs=2, metavar=("A", "B"), help="accuracy of each class under two methods")
    parser.add_argument(
        "--plot",
        metavar="KIND",
        help="bars, radar, epochs, per-class, shots, depth, length or a config key; with --out",
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="results of runs with TEST.SPLIT val")
    parser.add_argument("--test-log", action="store_true", help="mean and deviation over the seeds of a folder")
    parser.add_argument("--ci95", action="store_true", help="with --test-log: 1.96 std / sqrt(n) instead of std")
    parser.add_argument("--keyword", default="accuracy", help="with --test-log: which result, e.g. macro_f1")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    return exit_status(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
