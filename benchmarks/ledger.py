"""What each part of the fast text pass buys: ``python -m benchmarks.ledger``.

Forward and backward of the text side, from the plain pass to ours, one saving after the other; ViT-B/16's text encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import naive
from benchmarks.common import arguments, classifier, count_flops, device, interleave, machine, markdown

CASES = (("MaPLe", 100), ("CoOp", 100))


def stages(method: str, classes: int) -> dict[str, Callable[[], object]]:
    """The text side of a step, with more and more savings."""
    model = classifier(method, classes)
    ids = naive.padded_ids(model.texts).to(device())
    longest = int(model.texts.lengths.max())

    def backward(encode: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: encode().square().mean().backward()

    def plain(tokens: Tensor) -> Callable[[], object]:
        return backward(lambda: naive.encode_text(model.clip, tokens, model.learner().text, naive.sdpa))

    def filled() -> Tensor:
        with patch("clip.text.bucket_cost", lambda *_: 1e9):
            return model.encode_text(model.learner().text)

    return {
        "77 tokens": plain(ids),
        "to the longest text": plain(ids[:, :longest]),
        "+ shared prefix, EOS row alone in the last layer": backward(filled),
        "+ no filling between texts": backward(lambda: model.encode_text(model.learner().text)),
    }


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for method, classes in CASES:
        steps = stages(method, classes)
        flops = [count_flops(step) / 1e9 for step in steps.values()]
        seconds = interleave([*steps.values()], args.repeats)
        for name, work, time in zip(steps, flops, seconds):
            rows.append([f"{method}, {classes} classes", name, work, flops[0] / work, time, seconds[0] / time])
            print(*rows[-1], flush=True)
    header = ["case", "text side", "GFLOP", "fewer", "s", "faster"]
    print(f"\n{machine()}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
