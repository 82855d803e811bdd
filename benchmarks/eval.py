"""Time of evaluating a test set, the naive computation beside ours: ``python -m benchmarks.eval``.

Naively the class names are encoded anew for every batch; ours encodes them once. The naive time of a set of 20
batches is that of two batches times ten.
"""

from __future__ import annotations

import torch

from benchmarks.common import arguments, classifier, count_flops, images, interleave, machine, markdown, naive_logits

BATCHES, BATCH = 20, 32
CASES = (("MaPLe", 100), ("MaPLe", 500), ("CoOp", 500), ("RPP", 500))
TARGETS = {("MaPLe", 500): 3}


@torch.no_grad()
def measure(method: str, classes: int, precision: str, repeats: int) -> list[object]:
    model, image = classifier(method, classes, precision).eval(), images(BATCH)

    def ours(batches: int = BATCHES) -> None:
        model.set_classnames(model.classnames)  # a new evaluation starts with nothing cached
        for _ in range(batches):
            model(image)

    def naive(batches: int = 2) -> None:
        for _ in range(batches):
            naive_logits(model, image)

    text = count_flops(lambda: ours(1)) - (per_batch := count_flops(lambda: model(image)))
    bound = count_flops(lambda: naive(1)) * BATCHES / (text + per_batch * BATCHES)
    seconds = interleave((naive, ours), repeats)
    whole = seconds[0] * BATCHES / 2
    ratio = whole / seconds[1]
    name = f"{method}, {classes} classes, {BATCHES} batches of {BATCH}"
    return [name, whole, seconds[1], ratio, TARGETS.get((method, classes)), bound, BATCHES * BATCH / seconds[1]]


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for case in CASES:
        rows.append(measure(*case, args.precision, args.repeats))
        print(*rows[-1], flush=True)
    header = ["case", "naive s", "ours s", "ratio", "target", "bound", "images/s"]
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
