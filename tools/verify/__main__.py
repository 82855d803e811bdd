"""Whether weights, data and this machine give what is published: the first hour with real ones.

    python -m tools.verify                                  # the embedded world: does the code work here?
    python -m tools.verify --root ~/data                    # whatever is there of the sixteen benchmark data sets
    python -m tools.verify dtd eurosat --root ~/data --weights ViT-B-16.pt --checkpoints MaPLe=model.pth.tar-2

A line for everything: ok, WRONG or not here, with what was found and, unless it is ok, what was expected.

weights      hash of the backbone's file, shapes and numbers of its tensors, what is done to an image
data         counts, class names, template, split file, few-shot picks
zeroshot     accuracy within 0.3 points of the printed number
checkpoints  accuracy of published prompts on the data set that they were trained on
step         a training step in each precision, ours against the naive computation (without a GPU: fp32)
times        how long trainings will take

Exit status: 0 if nothing is wrong, 1 if something is, 2 for a mistake in the command. It goes on where it was
interrupted: what was right is not verified again as long as files (by size and time), expectations and versions are the
same; delete --out to start over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dassl.utils import exit_status, sole_user_of

PARTS = ("weights", "data", "zeroshot", "checkpoints", "step", "times")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="DATASET", help="names or settings files' stems; default: all")
    parser.add_argument("--root", type=Path, help="folder of the data sets; without it the embedded world")
    parser.add_argument("--backbone", default="", help="CLIP model (default: ViT-B/16; tiny without --root)")
    parser.add_argument("--weights", default="", help="its file, if it is not to be looked for or downloaded")
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        default=[],
        metavar="FOLDER | METHOD=PATH",
        help="published prompts; in a folder each file or folder is named after its method",
    )
    parser.add_argument("--expect", type=Path, metavar="FILE", help="JSON file of what is expected instead")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what is found here, to be expected elsewhere (--expect): weights, data sets, zero-shot accuracy",
    )
    parser.add_argument("--only", nargs="+", default=[], choices=PARTS, help="parts")
    parser.add_argument("--out", type=Path, default=Path("output/verify"), help="for runs and what was verified")
    parser.add_argument("--opts", nargs="+", default=[], help="KEY VALUE pairs that change the config of all runs")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Not at the top: what needs torch takes seconds, and a usage needs none of it."""
    from tools.data.commands import resolve

    from . import expected
    from .accuracy import Setup, find_checkpoints
    from .record import record
    from .tasks import Plan, check_names
    from .verdicts import ABSENT, OK, WRONG, Memory, carry_out
    from .weights import locate

    root = args.root and args.root.expanduser()
    if args.expect:
        wanted = expected.read(args.expect)
    else:
        is_embedded = root is None and not args.backbone
        wanted = expected.read(expected.EMBEDDED) if is_embedded else expected.of_published(args.backbone or "ViT-B/16")
    names = check_names([resolve(name) for name in args.names] or [*wanted.datasets], root)
    checkpoints = find_checkpoints(args.checkpoints)
    try:
        weights, problem = locate(wanted.backbone, args.weights), ""
    except ConnectionError as error:
        weights, problem = Path(), f"no weights: {' '.join(str(error).split())}"
    out = args.out.expanduser()
    setup = Setup(wanted, root, weights, out, tuple(args.opts))
    with sole_user_of(str(out)):
        if args.record:
            if problem:
                raise ConnectionError(problem)
            record(setup, names, args.record)
            return 0
        plan = Plan(setup, names, problem, checkpoints)
        counts = carry_out(plan.tasks(args.only), Memory(out / "state.json"))
    print(f"{counts[OK]} {OK}, {counts[WRONG]} {WRONG}, {counts[ABSENT]} {ABSENT}; kept in {out}")
    return 1 if counts[WRONG] else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
