"""Peak memory of the text side of a training step, by number of classes and budget: ``python -m benchmarks.memory``.

Forward and backward of all class features of MaPLe and CoOp (16 tokens) under ``MODEL.TEXT_MEMORY_GB``, each in a
process of its own: growth of the process's peak over what it had before (CPU), or the allocator's peak (GPU). Large
blocks are mapped one by one, or glibc before 2.38 keeps what was freed (its ``memalign`` does not find it again).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import torch

from benchmarks import naive
from benchmarks.common import arguments, classifier, device, machine, markdown, synchronize

CASES = (  # method, classes, budget in GB (0: none), naive
    ("CoOp", 100, 0, True),
    ("CoOp", 100, 0, False),
    ("CoOp", 1000, 0, False),
    ("CoOp", 10_000, 4, False),
    ("MaPLe", 100, 0, True),
    ("MaPLe", 100, 0, False),
    ("MaPLe", 1000, 0, False),
    ("MaPLe", 10_000, 4, False),
    ("MaPLe", 1000, 0.5, False),
)
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # bytes


def peak_gb() -> float:
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(method: str, classes: int, budget: float, plain: bool, precision: str) -> dict[str, float]:
    """Peak in GB and seconds of one step; run it in a new process."""
    model = classifier(method, classes, precision)
    ids = naive.padded_ids(model.texts).to(device())
    if device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize()
    start, before = time.perf_counter(), peak_gb()
    plan = model.method.prompts().text
    if plain:
        features = naive.encode_text(model.clip, ids, plan, naive.sdpa)
    else:
        features = model.clip.encode_text(model.texts, plan, budget or None)
    features.square().mean().backward()
    synchronize()
    return {"peak": peak_gb() - before, "seconds": time.perf_counter() - start}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", help="one case, as JSON, in this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.case:
        print(json.dumps(measure(*json.loads(args.case), args.precision)))
        return
    environment, rows = {**os.environ, **MAPPED}, []
    for case in CASES:
        method, classes, budget, plain = case
        command = [sys.executable, "-m", "benchmarks.memory", "--threads", str(args.threads)]
        command += ["--precision", args.precision, "--case", json.dumps(case)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found = json.loads(run.stdout)
        kind = "naive" if plain else "ours"
        rows.append([method, classes, kind, budget or None, found["peak"], found["seconds"]])
        print(*rows[-1], flush=True)
    header = ["method", "classes", "computation", "budget GB", "peak GB", "s"]
    print(f"\n{machine()}; {args.precision}\n\n{markdown(rows, header)}")


if __name__ == "__main__":
    main()
