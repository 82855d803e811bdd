"""A step shared by two processes, beside the same step of one: ``python -m benchmarks.ranks``.

ViT-B/16's shapes, K = 1000 of 10,450 classes, 4 images a step in all, one thread a process, gloo. In turns in one run:
the first process alone while the other waits, both with each its share of the class texts, both with all of them. As
two processes share more than the cores (memory, cache, clock), the same is done with one product of matrices a process;
*corrected* is the ratio of times over what that product loses. Also: what it costs to keep a state to go on from.
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import multiprocessing

from benchmarks.common import arguments, classifier, images, machine, markdown
from dassl import ranks
from dassl.checkpoints import save_state
from dassl.ranks import Ranks
from trainers.method import Batch, Method
from trainers.prompted_clip import PromptedCLIP
from trainers.sampling import draw_candidates
from trainers.step import add_gradients

CLASSES, BATCH, SIZE = 10_450, 4, 2
CASES: dict[str, Mapping[str, object]] = {
    "POMP": {"EPT": True, "UPDATE_CLASS_NUM": 1000},
    "RPP": {"UPDATE_CLASS_NUM": 1000, "LAMBDA": 0.0},
}
MINUTES = 10  # between two states that are kept


def step(model: PromptedCLIP, own: Ranks) -> Callable[[], object]:
    """The step of one among ``own``, as the trainer makes it."""
    method = model.method
    sampling = method.needs(method.options).sampling
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    share = slice(own.rank * BATCH // own.size, (own.rank + 1) * BATCH // own.size)
    image = images(BATCH)[share]
    label = torch.randint(CLASSES, (BATCH,), generator=torch.Generator().manual_seed(3))[share]

    def make() -> None:
        torch.manual_seed(5)
        optimizer.zero_grad()
        labels, rows = own.join(label, BATCH)
        candidates = draw_candidates(sampling, labels, CLASSES).rows(rows)
        classes, (candidates, here) = model.subset(candidates.classes, (candidates, label))
        add_gradients(model, Batch(image, here, candidates, classes), 1, 1.0, lambda loss: loss, own)
        optimizer.step()

    return make


def in_turns(ways: Mapping[str, tuple[Callable[[], object], int]], both: Ranks, repeats: int) -> dict[str, float]:
    """Median seconds of each way by the first process; a way has as many processes as its number says."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (way, size) in ways.items():
            both.gather(None)  # all begin together
            begun = time.perf_counter()
            if both.rank < size:
                way()
            both.gather(None)
            seconds[name] += [time.perf_counter() - begun] if repeat else []  # the first is a warm-up
    return {name: statistics.median(times) for name, times in seconds.items()}


def seconds_a_state(method: Method) -> float:
    """Median seconds to keep its tensors, with as many of the optimiser's."""
    tensors, times = dict(method.named_parameters()), []
    state = {"state_dict": method.state_dict(), "optimizer": {name: tensor.data for name, tensor in tensors.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(20):
            begun = time.perf_counter()
            save_state(state, folder, 2)
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def measure(method: str, both: Ranks, repeats: int) -> tuple[list[object], list[object]]:
    """A row of the table of steps, and one of that of states."""
    make = partial(classifier, method, CLASSES, changes=CASES[method])
    ways = {
        "one": (step(alone := make(), Ranks()), 1),
        "two": (step(make(ranks=both), both), SIZE),
        "all texts": (step(make(), both), SIZE),
    }
    square = torch.randn(2048, 2048)
    products = lambda: [square @ square for _ in range(20)]  # noqa: E731
    seconds = in_turns(ways | {"product": (products, 1), "products": (products, SIZE)}, both, repeats)
    one, two, unshared = (seconds[name] for name in ways)
    lost = seconds["products"] / seconds["product"]
    steps = [method, one, two, two / one, unshared, unshared / one, lost, two / one / max(lost, 1.0)]
    kept = seconds_a_state(alone.method)
    return steps, [method, 1000 * kept, f"{100 * kept / (60 * MINUTES):.4f} %"]


def work(rank: int, port: int, repeats: int, queue: Any) -> None:
    local = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": SIZE, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in local.items()})
    torch.set_num_threads(1)
    both = ranks.start(3600)
    rows = [measure(method, both, repeats) for method in CASES]
    if both.is_first:
        queue.put((machine(), rows))
    ranks.stop()


def main() -> None:
    args = arguments(__doc__).parse_args()
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, (port, args.repeats, queue), SIZE)  # ends if one of them does
    where, rows = queue.get()
    header = ["method", "one s", "two s", "ratio", "two, all texts s", "ratio", "two products", "corrected"]
    print(f"\n{where}\n\n{markdown([row for row, _ in rows], header)}")
    print(f"\n{markdown([row for _, row in rows], ['method', 'a state ms', f'of {MINUTES} minutes'])}")


if __name__ == "__main__":
    main()
