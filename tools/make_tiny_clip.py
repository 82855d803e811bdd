"""Train the tiny CLIP of the embedded world from scratch, seeded: ``python -m tools.make_tiny_clip``.

What it sees, and what is kept from it, is told in ``tools/tiny_clip.py``. At the end: zero-shot accuracy on every
embedded data set.
"""

import argparse
import time
from pathlib import Path

ASSET = Path(__file__).parent.parent / "clip" / "tiny_clip.safetensors"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ASSET)
    parser.add_argument("--images", type=int, default=100_000, help="pictures to render")
    parser.add_argument("--steps", type=int, default=3500, help="training steps")
    parser.add_argument("--batch-size", type=int, default=128, help="pictures a step")
    parser.add_argument("--lr", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args, start = parse_args(), time.time()
    from tools import tiny_clip  # not at the top: it needs torch, which takes seconds, and a usage does not

    tiny_clip.make(args.output, args.images, args.steps, args.batch_size, args.lr, args.seed)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {time.time() - start:.0f} s")
    print(tiny_clip.zero_shot_table(args.output))


if __name__ == "__main__":
    main()
