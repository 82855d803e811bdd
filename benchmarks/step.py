"""Time of one training step or inference, the naive computation beside ours: ``python -m benchmarks.step``.

Same weights, same batch, in turns in one process. *floor* is the ratio of floating-point operations: what the ratio of
times would be if both ran at the same rate; *reached* is the measured ratio over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import trainers
from benchmarks.common import (
    NaiveCLIP,
    arguments,
    classifier,
    count_flops,
    images,
    interleave,
    machine,
    markdown,
    options_of,
    synchronize,
)
from configs import methods
from trainers import PromptedCLIP
from trainers.method import Batch
from trainers.sampling import AllClasses, SampledClasses, Sampling, draw_candidates


@dataclass(frozen=True)
class Case:
    """changes: of the method's few-shot settings. target: the ratio to be reached at least on two CPU cores."""

    method: str
    classes: int = 100
    batch: int = 4
    train: bool = True
    changes: Mapping[str, object] = field(default_factory=dict)
    target: float | None = None

    @property
    def name(self) -> str:
        sampling = getattr(trainers, self.method).needs(options_of(self.method, self.changes)).sampling
        classes = f"{sampling.num_candidates} of {self.classes}" if sampling else f"{self.classes}"
        return f"{self.method}, {classes} classes, batch {self.batch}, {'train' if self.train else 'inference'}"


MAPLE = Case("MaPLe", target=3.5)
RPP = Case("RPP", changes={"N_CTX_TEXT": 2, "N_CTX_VISION": 2, "LAMBDA": 0})  # at MaPLe's length and depth
CASES = (
    MAPLE,
    Case("MaPLe", 500, target=8),
    Case("CoOp", batch=32, target=1.7),
    Case("CoCoOp", batch=1, target=9),
    Case("CoCoOp", train=False, target=8),
    Case("POMP", 1000, 32, changes={"EPT": True, "UPDATE_CLASS_NUM": 200, "LOCAL_CORRECTION": False}, target=2.7),
    RPP,
    Case("IVLP", changes={"N_CTX_TEXT": 4, "N_CTX_VISION": 4, "PROMPT_DEPTH_TEXT": 9, "PROMPT_DEPTH_VISION": 9}),
    Case("VPT"),
)
Draw = Callable[[Sampling, Tensor, int], SampledClasses]


def cases(wanted: Collection[str]) -> list[Case]:
    """Those of the wanted methods, or all; of a method without any, a step with its few-shot settings."""
    chosen = [case for case in CASES if not wanted or case.method in wanted]
    others = [name for name in wanted if not any(case.method == name for case in chosen)]
    return [*chosen, *(Case(name, train=methods()[name].learns) for name in others)]


def draw_with_repetitions(sampling: Sampling, label: Tensor, num_classes: int) -> SampledClasses:
    """As ``draw_candidates``, but the images' own classes are encoded besides the drawn ones, some of them twice."""
    drawn = draw_candidates(sampling, label, num_classes)
    classes = torch.cat([label, drawn.classes[drawn.sampled]])
    own, sampled = (classes[:, None] == classes).int().argmax(dim=1).split([len(label), len(drawn.sampled)])
    return replace(drawn, classes=classes, own=own, sampled=sampled)


def draw_batch(case: Case, model: PromptedCLIP, draw: Draw) -> Callable[[], Batch]:
    """Makes a step's batch, always of the same images, with its candidate classes drawn anew."""
    needs = model.method.needs(model.method.options)
    image, *views = images(case.batch * needs.views).split(case.batch)
    on_host = torch.randint(case.classes, (case.batch,), generator=torch.Generator().manual_seed(3))

    def make() -> Batch:
        label, candidates, classes = on_host.to(model.device), AllClasses(on_host.to(model.device)), None
        if needs.sampling:
            drawn = draw(needs.sampling, on_host, case.classes)
            classes, (candidates, label) = model.subset(drawn.classes, (drawn, on_host))
        return Batch(image, label, candidates, classes, tuple(views))

    return make


def loss_of(model: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
    """The terms that are minimised."""
    terms = model.method.loss(model, batch)
    return {name: term for name, term in terms.items() if name.endswith("_loss")}


def step(case: Case, model: PromptedCLIP, draw: Draw) -> Callable[[], object]:
    """The method's loss, backward, SGD; or logits without a gradient."""
    if not case.train:
        model, image = model.eval(), images(case.batch)
        return torch.no_grad()(lambda: model(image))
    batch = draw_batch(case, model, draw)
    optimizer = torch.optim.SGD([p for p in model.method.parameters() if p.requires_grad], lr=1e-3)

    def train() -> None:
        optimizer.zero_grad()
        model.method.backward(loss_of(model, batch()))
        optimizer.step()

    return train


def functions(case: Case, precision: str) -> list[Callable[[], object]]:
    """The naive step and ours."""
    kinds = ((NaiveCLIP, draw_with_repetitions), (PromptedCLIP, draw_candidates))
    return [
        step(case, classifier(case.method, case.classes, precision, changes=case.changes, kind=kind), draw)
        for kind, draw in kinds
    ]


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
    steps = [functions(case, precision)[1] for case in (MAPLE, RPP)]
    maple, rpp = interleave(steps, max(3, repeats))
    return ["RPP step / MaPLe step, 100 classes, batch 4", maple, rpp, rpp / maple, "<= 1.05"]


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", default=[], choices=[*methods()], help="methods", metavar="METHOD")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    header = ["case", "naive s", "ours s", "ratio", "target", "floor", "reached", "ours GFLOP/s"]
    rows = []
    for case in cases(args.only):
        rows.append(measure(case, args.precision, args.repeats))
        print(*rows[-1], flush=True)
    if not args.only:
        rows.append(rpp_over_maple(args.precision, args.repeats))
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
