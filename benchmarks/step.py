"""Time of one training step or inference, the naive computation beside ours: ``python -m benchmarks.step``.

Same weights, same batch, in turns in one process. *floor* is the ratio of floating-point operations: what the ratio of
times would be if both ran at the same rate; *reached* is the measured ratio over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import (
    arguments,
    classifier,
    count_flops,
    device,
    images,
    interleave,
    machine,
    markdown,
    naive_logits,
    synchronize,
)
from dassl.config import CfgNode
from trainers.losses import candidates
from trainers.prompted_clip import PromptedCLIP


@dataclass(frozen=True)
class Case:
    """``target``: the ratio to be reached at least on two CPU cores."""

    method: str
    classes: int
    batch: int
    train: bool = True
    sampled: int = 0  # candidate classes per step, 0: all
    target: float | None = None

    @property
    def name(self) -> str:
        classes = f"{self.sampled} of {self.classes}" if self.sampled else f"{self.classes}"
        return f"{self.method}, {classes} classes, batch {self.batch}, {'train' if self.train else 'inference'}"


CASES = (
    Case("MaPLe", 100, 4, target=3.5),
    Case("MaPLe", 500, 4, target=8),
    Case("CoOp", 100, 32, target=1.7),
    Case("CoCoOp", 100, 1, target=9),
    Case("CoCoOp", 100, 4, train=False, target=8),
    Case("POMP", 1000, 32, sampled=200, target=2.7),
    Case("RPP", 100, 4),
    Case("IVLP", 100, 4),
    Case("VPT", 100, 4),
)


def training_step(model: PromptedCLIP, forward: Callable[[], Tensor], label: Tensor) -> Callable[[], None]:
    """Forward, cross-entropy, backward, SGD."""
    optimizer = torch.optim.SGD([p for p in model.learner.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(forward(), label).backward()
        optimizer.step()

    return step


def functions(case: Case, precision: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The naive step and ours."""
    torch.manual_seed(3)
    model, image = classifier(case.method, case.classes, precision), images(case.batch)
    label = torch.randint(case.classes, (case.batch,), device=device())
    if case.sampled:
        return sampled_steps(case, model, image, label)
    forwards = (lambda: naive_logits(model, image), lambda: model(image))
    if case.train:
        return tuple(training_step(model, forward, label) for forward in forwards)
    inference = torch.no_grad()
    return tuple(inference(forward) for forward in forwards)


def sampled_steps(
    case: Case, model: PromptedCLIP, image: Tensor, label: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """POMP's steps. Naively the images' own classes are encoded besides the drawn ones, some of them twice."""
    options = CfgNode({"UPDATE_CLASS_NUM": case.sampled, "LOCAL_CORRECTION": False})
    on_host = label.cpu()
    classes = torch.cat([on_host, torch.randperm(case.classes)[: case.sampled - 1]])

    def ours() -> Tensor:
        chosen, texts = model.to_device(candidates(options, on_host, case.classes))
        return chosen.columns(model(image, chosen.classes, texts))

    return (
        training_step(model, lambda: naive_logits(model, image, classes), torch.arange(len(label), device=device())),
        training_step(model, ours, torch.zeros_like(label)),
    )


def measure(case: Case, precision: str, repeats: int) -> list[object]:
    naive, ours = functions(case, precision)
    start = time.perf_counter()
    all_flops = count_flops(naive)
    synchronize()
    once = time.perf_counter() - start
    floor = all_flops / (own := count_flops(ours))
    # Without repeats the naive step ran once only, while its operations were counted.
    seconds = interleave((naive, ours), repeats) if repeats else [once, *interleave((ours,), 2)]
    ratio = seconds[0] / seconds[1]
    return [case.name, *seconds, ratio, case.target, floor, f"{100 * ratio / floor:.0f} %", own / seconds[1] / 1e9]


def rpp_over_maple(precision: str, repeats: int) -> list[object]:
    """An RPP step (LAMBDA 0) over a MaPLe step of the same depth, length and batch."""
    steps = [functions(Case(method, 100, 4), precision)[1] for method in ("MaPLe", "RPP")]
    maple, rpp = interleave(steps, max(3, repeats))
    return ["RPP step / MaPLe step, 100 classes, batch 4", maple, rpp, rpp / maple, "<= 1.05"]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", default=[], help="methods")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    header = ["case", "naive s", "ours s", "ratio", "target", "floor", "reached", "ours GFLOP/s"]
    rows = []
    for case in CASES:
        if not args.only or case.method in args.only:
            rows.append(measure(case, args.precision, args.repeats))
            print(*rows[-1], flush=True)
    if not args.only:
        rows.append(rpp_over_maple(args.precision, args.repeats))
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
