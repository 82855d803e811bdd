"""What a run will cost, measured in a few steps: ``python -m tools.plan`` with a config, or the words of ``train.py``.

    python -m tools.plan configs/trainers/RPP/tiny.yaml
    python -m tools.plan --trainer RPP
    python -m tools.plan --complexity --trainer MaPLe    # FLOPs and images per second, as in MaPLe's Table 6
    python -m tools.plan configs/trainers/RPP/vit_b16_ep5_randaug2.yaml --ranks 8 \\
        --dataset-config-file configs/datasets/imagenet_21k.yaml DATASET.NUM_SHOTS 16
    python -m tools.plan configs/benchmarks/maple_table3.yaml    # FLOPs of a whole table, beside the family's way

Times and memory are those of this machine; nothing is downloaded or left on disk. Stand-ins take the place of weights
and data that are not here: random weights of the backbone's shapes, and as many photos and classes as the data set is
known to have, or as are stated. With --ranks one of so many processes is measured, and what each has to do is told.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from configs import settings_file
from dassl.utils import exit_status
from tools.command import add_import, method_names

if TYPE_CHECKING:
    from tools.stand_ins import Stated


def run_arguments(words: Sequence[str]) -> list[str]:
    """``train.py``'s words; a leading CONFIG.yaml is the method's file, in the folder that bears the trainer's name."""
    if not words or not words[0].endswith(".yaml"):
        return [*words]
    trainer = [] if "--trainer" in words else ["--trainer", Path(words[0]).resolve().parent.name]
    return ["--config-file", words[0], *trainer, *words[1:]]


def is_benchmark(path: str) -> bool:
    """Whether a file is one of ``tools.sweep``: a table, or a list of tables, not settings of a method."""
    if not (path.endswith(".yaml") and (file := Path(settings_file(path))).is_file()):
        return False
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False  # who reads settings says what is wrong
    return isinstance(content, list) or (isinstance(content, dict) and "protocol" in content)


def parse_args(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and the words of ``train.py``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.plan",
        description=f"{__doc__}\nMethods: {', '.join(method_names())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--complexity", action="store_true", help="FLOPs and images per second instead")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes, as torchrun starts them")
    parser.add_argument("--stand-in", action="store_true", help="for weights and data, even if they are here")
    parser.add_argument(
        "--tflops", type=float, default=50.0, metavar="N", help="of a table: 10^12 FLOP a second (default: %(default)g)"
    )
    stated = parser.add_argument_group("a data set of these sizes in place of the config's own")
    stated.add_argument("--classes", type=int)
    stated.add_argument("--images", type=int, help="of the training; default: DATASET.NUM_SHOTS of each class")
    stated.add_argument("--test-images", type=int)
    stated.add_argument("--photo", type=int, nargs=2, metavar=("W", "H"), help="width and height of stored photos")
    add_import(parser)
    return parser.parse_known_args(argv)


def run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    from tools import cost  # not at the top: it needs torch, which takes seconds, and a usage does not

    photo = args.photo and tuple(args.photo)
    stated = cost.Stated(args.classes, args.images, args.test_images, photo, args.stand_in)
    if argv and is_benchmark(argv[0]):
        print(whole_table(args, argv, stated))
        return
    print(cost.complexity_table([argv]) if args.complexity else cost.plan(argv, args.ranks, stated).table())


def whole_table(args: argparse.Namespace, argv: Sequence[str], stated: Stated) -> str:
    if len(argv) > 1 or args.complexity or args.ranks != 1:
        raise ValueError(f"A table's plan takes its file alone, --tflops and sizes of data sets: {' '.join(argv)}")
    if not 0 < args.tflops < math.inf:
        raise ValueError(f"--tflops must be above 0, but is {args.tflops}")
    try:
        from tools.table_cost import table
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "benchmarks":
            raise
        raise ValueError("A table's plan needs benchmarks/, which is in the clone only: run it there") from error
    return table(argv[0], args.tflops, stated, args.imports)


def main(argv: Sequence[str] | None = None) -> int:
    args, words = parse_args(argv)
    imports = [word for module in args.imports for word in ("--import", module)]
    words = words if words and is_benchmark(words[0]) else [*imports, *run_arguments(words)]
    return exit_status(lambda: run(args, words))


if __name__ == "__main__":
    sys.exit(main())
