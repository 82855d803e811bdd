"""What the embedded data sets hold for the tiny CLIP, in percent of the test images: ``python -m tools.world``.

generic, own, ensemble: zero-shot with "a photo of a {}.", with the set's own template, and with that and CLIP's seven
general ones. linear: a free vector for each class, fitted to the frozen features of all training images. composed: a
free vector for each word, and a class is the sum of its words' vectors, as names are composed of words. On the source,
composed - generic is the room that prompts have.
"""

import argparse
import sys
from collections.abc import Sequence

from dassl.utils import exit_status


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="DATASET", help="default: all of the embedded world")
    return parser.parse_args(argv)


def run(names: Sequence[str]) -> int:
    from clip.clip import load_frozen  # not at the top: torch takes seconds, and a usage does not need it
    from tools.data.commands import BUILT_IN, resolve
    from tools.probes import table

    kinds = [resolve(name) for name in names] or [*BUILT_IN]
    if foreign := [kind for kind in kinds if kind not in BUILT_IN]:
        raise ValueError(f"{', '.join(foreign)} is not of the embedded world: {', '.join(BUILT_IN)}")
    print(table(load_frozen("tiny", "", "fp32"), [BUILT_IN[kind] for kind in kinds]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return exit_status(lambda: run(args.names))


if __name__ == "__main__":
    sys.exit(main())
