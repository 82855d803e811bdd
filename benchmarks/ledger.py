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
from clip.prompts import PromptPlan

CASES = (("MaPLe", 100), ("CoOp", 100))
CHUNKED_GB = 0.05  # a budget that takes several chunks


def stages(method: str, classes: int, precision: str = "fp32") -> dict[str, Callable[[], object]]:
    """The text side of a step, with more and more savings."""
    model = classifier(method, classes, precision)
    ids = naive.padded_ids(model.texts).to(device())
    longest = int(model.texts.lengths.max())

    def backward(encode: Callable[[PromptPlan], Tensor]) -> Callable[[], object]:
        return lambda: encode(model.method.prompts().text).square().mean().backward()

    def plain(tokens: Tensor) -> Callable[[], object]:
        return backward(lambda plan: naive.encode_text(model.clip, tokens, plan, naive.sdpa))

    def ours(plan: PromptPlan, memory_gb: float | None = None) -> Tensor:
        return model.clip.encode_text(model.texts, plan, memory_gb)

    def filled(plan: PromptPlan) -> Tensor:
        with patch("clip.text_encoder.bucket_cost", lambda *_: 1e9):
            return ours(plan)

    return {
        "77 tokens": plain(ids),
        "to the longest text": plain(ids[:, :longest]),
        "+ shared prefix, EOS row alone in the last layer": backward(filled),
        "+ no filling between texts": backward(ours),
        f"+ chunks, recomputed ({CHUNKED_GB} GB)": backward(lambda plan: ours(plan, CHUNKED_GB)),
    }


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for method, classes in CASES:
        steps = stages(method, classes, args.precision)
        flops = [count_flops(step) / 1e9 for step in steps.values()]
        seconds = interleave([*steps.values()], args.repeats)
        for name, work, time in zip(steps, flops, seconds):
            rows.append([f"{method}, {classes} classes", name, work, flops[0] / work, time, seconds[0] / time])
            print(*rows[-1], flush=True)
    header = ["case", "text side", "GFLOP", "fewer", "s", "faster"]
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
