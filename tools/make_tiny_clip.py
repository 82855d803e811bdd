"""Train the tiny CLIP of the embedded world from scratch, seeded: ``python -m tools.make_tiny_clip``.

What it sees, and what is kept from it, is told in ``tools/tiny_clip.py``. At the end: ``tools.world``.
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
    from clip.clip import load_frozen  # not at the top: torch takes seconds, and a usage does not need it
    from tools import probes, tiny_clip

    tiny_clip.make(args.output, args.images, args.steps, args.batch_size, args.lr, args.seed)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {time.time() - start:.0f} s")
    print(probes.table(load_frozen("", str(args.output), "fp32")))


if __name__ == "__main__":
    main()
