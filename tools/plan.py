"""What a run will cost, measured in a few steps: ``python -m tools.plan`` with a config, or the words of ``train.py``.

    python -m tools.plan configs/trainers/RPP/tiny.yaml
    python -m tools.plan --trainer RPP
    python -m tools.plan --complexity --trainer MaPLe    # FLOPs and images per second, as in MaPLe's Table 6

Nothing is written. Times and memory are those of this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from dassl.utils import exit_status
from train import add_import, method_names


def run_arguments(words: Sequence[str]) -> list[str]:
    """``train.py``'s words; a leading CONFIG.yaml is the method's file, in the folder that bears the trainer's name."""
    if not words or not words[0].endswith(".yaml"):
        return [*words]
    trainer = [] if "--trainer" in words else ["--trainer", Path(words[0]).resolve().parent.name]
    return ["--config-file", words[0], *trainer, *words[1:]]


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and the words of ``train.py``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.plan",
        description=f"{__doc__}\nMethods: {', '.join(method_names())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--complexity", action="store_true", help="FLOPs and images per second instead")
    add_import(parser)
    return parser.parse_known_args(argv)


def run(complexity: bool, argv: Sequence[str]) -> None:
    from tools import cost  # not at the top: it needs torch, which takes seconds, and a usage does not

    print(cost.complexity_table([argv]) if complexity else tabulate(cost.measure(cost.build(argv)).rows()))


def main(argv: Sequence[str] | None = None) -> int:
    args, words = parse_args(argv)
    imports = [word for module in args.imports for word in ("--import", module)]
    return exit_status(lambda: run(args.complexity, [*imports, *run_arguments(words)]))


if __name__ == "__main__":
    sys.exit(main())
