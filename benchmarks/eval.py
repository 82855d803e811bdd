"""Time of evaluating a test set, the naive computation beside ours: ``python -m benchmarks.eval``.

Naively the class names are encoded anew for every batch; ours encodes them once. Times of a set of 20 batches are made
of measured parts: naively 20 batches, ours one with the class names still to be encoded and 19 without.
"""

from __future__ import annotations

import torch

from benchmarks.common import NaiveCLIP, arguments, classifier, count_flops, images, interleave, machine, markdown
from trainers import PromptedCLIP

BATCHES, BATCH = 20, 32
CASES = (("MaPLe", 100), ("MaPLe", 500))
TARGETS = {("MaPLe", 500): 3}


@torch.no_grad()
def measure(method: str, classes: int, precision: str, repeats: int) -> list[object]:
    plain, model = (classifier(method, classes, precision, kind=kind).eval() for kind in (NaiveCLIP, PromptedCLIP))
    image = images(BATCH)

    def first() -> None:
        model.set_classnames(model.classnames)  # a new evaluation starts with nothing cached
        model(image)

    parts = (lambda: plain(image), first, lambda: model(image))
    whole = [(n * BATCHES, f + (BATCHES - 1) * m) for n, f, m in (map(count_flops, parts), interleave(parts, repeats))]
    (naive_flops, our_flops), (naive, ours) = whole
    name = f"{method}, {classes} classes, {BATCHES} batches of {BATCH}"
    target = TARGETS.get((method, classes))
    return [name, naive, ours, naive / ours, target, naive_flops / our_flops, BATCHES * BATCH / ours]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case in CASES:
        rows.append(measure(*case, args.precision, args.repeats))
        print(*rows[-1], flush=True)
    header = ["case", "naive s", "ours s", "ratio", "target", "floor", "images/s"]
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
