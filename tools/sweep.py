"""A whole table by one command: ``python -m tools.sweep configs/benchmarks/maple_table3.yaml --root $DATA``.

A benchmark file names a protocol, methods, data sets, seeds and settings, or is a list of such tables. What is done
already is skipped, what was interrupted goes on, what fails does not stop the rest; at the end stands the table, and
the differences that the file asks for, paired over seeds (``compare``). Jobs run one after another, or side
by side on local GPUs (``--gpus 0,1``), on the CPU (``--workers 2``) or on Slurm (``--slurm
slurm_partition=gpu,gpus_per_node=1,timeout_min=240``). ``--ranks N`` shares each training out among N processes, with
the same results; so does Slurm with several tasks (``nodes=2,tasks_per_node=8,gpus_per_node=8``).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from pathlib import Path

import yaml

from configs import settings_file, unknown
from configs.runs import is_zero_shot, variant_of
from configs.worlds import EMBEDDED, REAL
from dassl.config import flatten_cfg
from dassl.utils import exit_status
from tools.command import add_import, setup_cfg
from tools.command import parse_args as parse_run
from tools.jobs import Job, Worker, carry_out, shared_out, states
from tools.protocols import (
    PLACES,
    TRANSFERS,
    Series,
    add_ranks,
    jobs_of,
    print_table,
    take_shots,
    transfer,
    usual_data,
)
from tools.slurm import read_settings, slurm_workers, tasks_of
from tools.workers import ProcessWorker, local_worker

PROTOCOLS = (*PLACES, "complexity")


@dataclass(frozen=True)
class Method:
    """One line of a table, or several: ``grid`` has several values for a key, which are all combined.

    init: prompts to start from, a path or the fields of the ``Series`` that pretrains them.
    """

    trainer: str
    config: str = ""
    opts: Mapping[str, object] = field(default_factory=dict)
    grid: Mapping[str, Sequence[object]] = field(default_factory=dict)
    init: str | Mapping[str, object] = ""


@dataclass(frozen=True)
class Benchmark:
    """A table or figure. paper: what it reproduces; ``None``: what the protocol has in the papers.

    datasets: those of the rows; for xd, dg and pretrain the targets, and source: where the prompts are learned.
    compare: pairs of rows whose difference is printed as well.
    """

    title: str
    protocol: str
    methods: Sequence[Method]
    paper: str = ""
    source: str = ""
    datasets: Sequence[str] | None = None
    seeds: Sequence[int] = (1, 2, 3)
    shots: Sequence[int] = (16,)
    compare: Sequence[tuple[str, str]] = ()


def read_benchmarks(path: str | Path) -> list[Benchmark]:
    """The tables of a file. ``FileNotFoundError``, or ``ValueError`` that names the file and what is wrong in it."""
    try:
        content = yaml.safe_load(Path(settings_file(path)).read_text(encoding="utf-8"))
        tables = content if isinstance(content, list) and content else [content]
        return [with_default_data(to_benchmark(table)) for table in tables]
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f'"{path}" is no benchmark: {error}') from error


def to_benchmark(content: object) -> Benchmark:
    """One table of a file; ``ValueError`` for what is wrong in it."""
    check_keys(content, Benchmark)
    if not isinstance(content.get("methods"), list):
        raise ValueError("it has no list of methods")
    for method in content["methods"]:
        check_keys(method, Method)
    benchmark = Benchmark(**{**content, "methods": [Method(**method) for method in content["methods"]]})
    if benchmark.protocol not in PROTOCOLS:
        raise ValueError(unknown("protocol", benchmark.protocol, PROTOCOLS))
    check_lists(benchmark)
    return benchmark


def check_keys(content: object, kind: type) -> None:
    known = [part.name for part in fields(kind) if part.name != "imports"]  # nothing that a file names is imported
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping with {', '.join(known)}, but got {content!r}")
    for key in content:
        if key not in known:
            raise ValueError(unknown(f"key of a {kind.__name__.lower()}", key, known))


def check_lists(benchmark: Benchmark) -> None:
    """ValueError for a table without methods, data sets, seeds or shots; without the key the usual ones are taken."""
    for name in ("methods", "datasets", "seeds", "shots"):
        values = getattr(benchmark, name)
        if name == "datasets" and values is None:
            continue
        if not isinstance(values, list | tuple):
            raise ValueError(f"{name} must be a list, but is {values!r}")
        if not values:
            raise ValueError(f"it has no {name}")
    pairs = benchmark.compare
    if not isinstance(pairs, list | tuple) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"compare must be a list of pairs [A, B], but is {pairs!r}")


def with_default_data(benchmark: Benchmark) -> Benchmark:
    """The benchmark with the source and the data sets that its protocol has in the papers."""
    source, datasets = usual_data(benchmark.protocol, EMBEDDED if benchmark.source in EMBEDDED else REAL)
    if benchmark.datasets is not None:
        datasets = benchmark.datasets
    return replace(benchmark, source=benchmark.source or source, datasets=datasets)


# Planning -------------------------------------------------------------------------------------------------------------


def plan_jobs(
    benchmark: Benchmark,
    opts: Sequence[str] = (),
    root: str = "",
    out: str = "output",
    imports: Sequence[str] = (),
) -> list[Job]:
    """Every job once, in an order in which each comes after those that it needs; first all of the first seed."""
    jobs: dict[str, Job] = {}
    for seed, method, shots, part in product(benchmark.seeds, benchmark.methods, benchmark.shots, parts(benchmark)):
        if is_zero_shot(method.trainer) and (seed, shots) != (benchmark.seeds[0], benchmark.shots[0]):
            continue  # neither changes anything
        start = Series(method.trainer, seed, method.config, shots=shots, root=root, out=out, imports=tuple(imports))
        for series, before in expand(start, method, part, opts):
            for job in (*before, *jobs_of(part.protocol, series, part.datasets, part.source)):
                jobs.setdefault(job.output_dir, job)
    return list(jobs.values())


def parts(benchmark: Benchmark) -> list[Benchmark]:
    """One for each data set that prompts are learned on, as a method's settings depend on it."""
    if benchmark.protocol in TRANSFERS:
        return [benchmark]
    return [replace(benchmark, datasets=[dataset]) for dataset in benchmark.datasets]


def expand(
    start: Series, method: Method, benchmark: Benchmark, opts: Sequence[str]
) -> Iterator[tuple[Series, list[Job]]]:
    """A series for each combination of the method's settings, with the jobs that make its initial prompts."""
    given_shots, last = take_shots(opts)  # for all rows of the table, and so in no row's name
    start = replace(start, shots=given_shots or start.shots)
    for values in product(*method.grid.values()):
        own = changes({**method.opts, **dict(zip(method.grid, values))}, start, benchmark)
        series = replace(
            start,
            opts=(*words(own), *last),
            variant=variant_of(own),
        )
        if isinstance(method.init, Mapping):
            before = pretraining(method.init, replace(start, opts=last, variant=""), benchmark)
            yield replace(series, init=before[0].output_dir, needs=(before[0].output_dir,)), before
        else:
            yield replace(series, init=method.init), []


def changes(settings: Mapping[str, object], plain: Series, benchmark: Benchmark) -> dict[str, object]:
    """Those settings that the plain series does not have anyway, so that equal runs share a folder."""
    if not settings:
        return {}
    plain = replace(plain, seed=1)  # no matter which: configs of all seeds are read once
    job, *_ = jobs_of(benchmark.protocol, plain, benchmark.datasets, benchmark.source)
    before, after = leaves(job.argv), leaves((*job.argv, *words(settings)))
    return {key: after[key] for key in settings if before[key] != after[key]}


@cache
def leaves(argv: tuple[str, ...]) -> dict[str, object]:
    """The whole config of a run by dotted key; ``KeyError`` or ``ValueError`` for options that it does not have."""
    return flatten_cfg(setup_cfg(parse_run(argv)))


def pretraining(init: Mapping[str, object], like: Series, benchmark: Benchmark) -> list[Job]:
    """The run that makes the prompts a method starts from."""
    check_keys(init, Series)
    world = EMBEDDED if all(dataset in EMBEDDED for dataset in benchmark.datasets) else REAL
    series = replace(like, config="", shots=16)
    return transfer(replace(series, **init), world.pretraining, (), "pretrain")


def words(settings: Mapping[str, object]) -> list[str]:
    return [word for key, value in settings.items() for word in (key, str(value))]


def narrowed(benchmarks: Sequence[Benchmark], only: Sequence[str], seeds: Sequence[int]) -> list[Benchmark]:
    """The parts of the tables with these methods, data sets and seeds; ``ValueError`` for a name that none has."""
    trainers = {method.trainer for benchmark in benchmarks for method in benchmark.methods}
    datasets = {name for benchmark in benchmarks for name in benchmark.datasets}
    for name in only:
        if name not in trainers | datasets:
            raise ValueError(unknown("--only, in this file:", name, sorted(trainers | datasets)))
    parts = [
        replace(
            benchmark,
            methods=[m for m in benchmark.methods if m.trainer in only or not {*only} & trainers],
            datasets=[d for d in benchmark.datasets if d in only or not {*only} & datasets],
            seeds=seeds or benchmark.seeds,
            compare=() if only else benchmark.compare,  # of rows that may be missing
        )
        for benchmark in benchmarks
    ]
    return [part for part in parts if part.methods and part.datasets]


# Carrying out ---------------------------------------------------------------------------------------------------------


def workers_for(args: argparse.Namespace, count: int) -> list[Worker]:
    if args.slurm:
        return slurm_workers(read_settings(args.slurm), args.out, count)
    return [ProcessWorker(gpu) for gpu in args.gpus] or [local_worker(True, args.workers) for _ in range(args.workers)]


def ranks_for(args: argparse.Namespace) -> int:
    """How many processes each training is shared out among."""
    for other, instead in (("gpus", "CUDA_VISIBLE_DEVICES says which"), ("slurm", "give tasks_per_node=N in --slurm")):
        if args.ranks != 1 and getattr(args, other):
            raise ValueError(f"--ranks and --{other} do not go together: {instead}")
    return tasks_of(read_settings(args.slurm)) if args.slurm else args.ranks


def comma_separated(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[int]:
    return [int(part) for part in comma_separated(text)]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="one of configs/benchmarks")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options of train.py for every job")
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--out", default="output", help="folder of all results")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs, what is done, and the commands")
    add_import(parser)
    parser.add_argument("--only", type=comma_separated, default=[], metavar="NAME,...", help="methods, data sets")
    parser.add_argument("--seeds", type=numbers, default=[], metavar="N,...", help="instead of the file's")
    parser.add_argument("--gpus", type=comma_separated, default=[], metavar="N,...", help="one job on each of them")
    parser.add_argument("--workers", type=int, default=1, help="jobs side by side on the CPU, which share its threads")
    add_ranks(parser)
    parser.add_argument("--slurm", type=comma_separated, default=[], metavar="NAME=VALUE,...", help="see submitit")
    return parser.parse_intermixed_args(argv)


def run(args: argparse.Namespace) -> int:
    if args.workers < 1:
        raise ValueError(f"--workers must be 1 or more, but is {args.workers}")
    ranks = ranks_for(args)
    benchmarks = narrowed(read_benchmarks(args.file), args.only, args.seeds)
    used = [
        name
        for benchmark in benchmarks
        for name in (*([benchmark.source] if benchmark.protocol in TRANSFERS else []), *benchmark.datasets)
    ]
    if not (args.root or args.dry_run or all(dataset in EMBEDDED for dataset in used)):
        raise ValueError(f"{args.file} needs data sets: give the folder that holds them by --root, or DATA=...")
    if any(benchmark.protocol == "complexity" for benchmark in benchmarks):
        return max(complexity(benchmark, args) for benchmark in benchmarks)
    planned = [plan_jobs(benchmark, args.opts, args.root, args.out, args.imports) for benchmark in benchmarks]
    jobs = [shared_out(job, ranks) for job in {job.output_dir: job for part in planned for job in part}.values()]
    print("; ".join(map(title, benchmarks)))
    if args.dry_run:
        for job, found in states(jobs).items():
            print(f"{found:10} {job.command()}")
        return 0
    bad = carry_out(jobs, workers_for(args, len(jobs)))
    failed = {job.output_dir for job in bad}
    for benchmark, part in zip(benchmarks, planned):
        starts = {need for job in part if not job.spec.evaluation for need in job.needs}
        if results := [job for job in part if job.output_dir not in starts | failed]:
            print_table(results, () if bad else benchmark.compare)
    return 1 if bad else 0


def title(benchmark: Benchmark) -> str:
    return f"{benchmark.title} ({benchmark.paper})" if benchmark.paper else benchmark.title


def complexity(benchmark: Benchmark, args: argparse.Namespace) -> int:
    """The cost of every method on every data set, instead of its accuracy."""
    jobs = plan_jobs(replace(benchmark, protocol="fewshot", seeds=[1]), args.opts, args.root, args.out, args.imports)
    print(benchmark.title)
    if args.dry_run:
        print("\n".join(f"python -m tools.plan --complexity {job.command().partition('train.py ')[2]}" for job in jobs))
        return 0
    from tools import cost  # not at the top: it needs torch, which a usage does not

    print(cost.complexity_table([job.argv for job in jobs]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return exit_status(lambda: run(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
