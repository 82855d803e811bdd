"""List the published data sets, fetch what is missing of one, or verify one against what is known of it.

``shard`` writes tar shards from class folders or parquet files. ``words`` lists the words that the tiny CLIP knows:
class names for the embedded world can be made of them.

python -m tools.data list
python -m tools.data fetch DescribableTextures EuroSAT --root ~/data
python -m tools.data fetch ImageNet21K --root ~/data --shards "https://host/train-{0000..2047}.tar"
python -m tools.data verify DescribableTextures --root ~/data
python -m tools.data shard ~/data/imagenet21k_resized/imagenet21k_train --into ~/data/imagenet_21k/shards
python -m tools.data words
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from dassl.utils import exit_status


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m tools.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--root", type=Path, default=os.environ.get("DATA") or "data", help="folder of the data sets ($DATA, or ./data)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | fetch | verify | shard | words")
    commands.add_parser("list", parents=[common], help="what there is, how to get it, what is here")
    add = commands.add_parser("fetch", parents=[common], help="get what is missing; goes on after an interruption")
    add.add_argument("name", nargs="+", help="names as in the list, or stems of configs/datasets/*.yaml")
    add.add_argument("--only", choices=("splits", "images"), default="", help="get nothing else")
    add.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add.add_argument("--shards", nargs="+", metavar="URL", help="tar shards of ImageNet21K; {0000..2047} is a range")
    add.add_argument(
        "--token-env",
        metavar="NAME",
        help="environment variable whose content is sent as a bearer token (huggingface.co gets that of HF_TOKEN)",
    )
    add.add_argument("--jobs", type=int, default=4, help="shards that are downloaded at once")
    add = commands.add_parser("verify", parents=[common], help="compare with what is known; status 1 if it differs")
    add.add_argument("name", nargs="+", help="as for fetch")
    add = commands.add_parser("shard", help="write shards; goes on after an interruption")
    add.add_argument("source", nargs="+", type=Path, help="a folder of class folders (WordNet ids), or .parquet files")
    add.add_argument("--into", required=True, type=Path, help="folder for the shards")
    add.add_argument("--name", default="", help="their name before the number; with val in it: test images")
    add.add_argument("--per-shard", type=int, default=5000, help="images in each")
    add.add_argument("--synsets", type=Path, help="WordNet ids by label, one a line, of parquet files that have none")
    commands.add_parser("words", parents=[common], help="the words that the tiny CLIP knows")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> int:
    from . import commands  # not at the top: it needs torch, which takes seconds, and a usage does not

    work = {
        "list": commands.list_all,
        "fetch": commands.fetch_all,
        "verify": commands.verify_all,
        "shard": commands.write_shards,
        "words": commands.list_words,
    }
    return work[args.command](args)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if ``verify`` finds a difference, 2 for what a user can put right."""
    args = parse_args(argv)
    if args.command != "shard":
        args.root = Path(args.root).expanduser()
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
