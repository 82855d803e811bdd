"""Time of a training step by number of classes: ``python -m benchmarks.scaling``.

Ours is timed; of the naive step the floating-point operations are given, since it does not fit in memory for long.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.common import (
    NaiveCLIP,
    arguments,
    classifier,
    count_flops,
    device,
    images,
    interleave,
    machine,
    markdown,
)

CLASSES = (100, 500, 1000)


def measure(method: str, classes: int, batch: int, precision: str, repeats: int, naive_tflop: float) -> list[object]:
    """naive_tflop: of the text side per 100 classes, forward and backward."""
    model, image = classifier(method, classes, precision, memory_gb=4), images(batch)
    label = torch.arange(batch, device=device())

    def step() -> None:
        F.cross_entropy(model(image), label).backward()

    ours = count_flops(step) / 1e12
    seconds = interleave([step], repeats)[0]
    return [f"{method}, batch {batch}", classes, seconds, ours, naive_tflop * classes / 100, ours / seconds * 1e3]


def naive_text_tflop(method: str) -> float:
    """Per 100 classes, forward and backward: what remains of a step without its image side."""
    model, image = classifier(method, 10, kind=NaiveCLIP), images(1)

    def step(names: list[str]) -> float:
        model.set_classnames(names)
        return count_flops(lambda: model(image).sum().backward())

    few, many = list(model.classnames), [*model.classnames, *model.classnames]
    return (step(many) - step(few)) * 10 / 1e12


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for method, batch in (("MaPLe", 4), ("CoOp", 32), ("POMP", 32)):
        tflop = naive_text_tflop(method)
        for classes in CLASSES:
            rows.append(measure(method, classes, batch, args.precision, args.repeats, tflop))
            print(*rows[-1], flush=True)
    header = ["case", "classes", "ours s", "ours TFLOP", "naive text TFLOP", "ours GFLOP/s"]
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
