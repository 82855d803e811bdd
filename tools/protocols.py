"""The benchmarks' protocols: a method and a data set to runs of ``train.py``, in the family's folders.

    python -m tools.protocols base2new METHOD [DATASET [SEED [CFG]]] [KEY VALUE ...]

DATASET is the stem of a file in configs/datasets, CFG of one in configs/trainers/METHOD, or a path that ends in .yaml
(default: the method's own for the protocol). Without a folder of data sets (--root, or DATA in the environment) the
embedded world is taken. A method outside this folder: --import my_package.my_method, and CFG is a path.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from configs import is_path, methods, settings_of, unknown
from configs.runs import RunSpec, is_zero_shot, pairs, variant_of
from configs.worlds import EMBEDDED, REAL, World
from dassl.utils import exit_status
from tools.command import add_import, import_all, method_names
from tools.jobs import Job, carry_out, shared_out
from tools.results.render import paper_grid, render
from tools.results.report import compared
from tools.results.runs import read_runs
from tools.results.tables import build
from tools.workers import local_worker

TRANSFERS = ("xd", "dg", "pretrain")


@dataclass(frozen=True)
class Series:
    """One method with one seed, under any protocol.

    config: stem or path of its settings, "" for the protocol's default; opts: KEY VALUE ... that change them, and
    variant: what folders and tables call these changes (made of all opts if it is not given). init: prompts to start
    from, and needs: the run that makes them. imports: modules of methods outside the tree.
    """

    method: str
    seed: int = 1
    config: str = ""
    shots: int = 16
    opts: tuple[str, ...] = ()
    variant: str | None = None
    init: str = ""
    needs: tuple[str, ...] = ()
    root: str = ""
    out: str = "output"
    imports: tuple[str, ...] = ()

    def spec(self, dataset: str, **changes: Any) -> RunSpec:
        """What a run of the series on ``dataset`` is."""
        settings = Path(self.config).stem if is_path(self.config) else self.config
        variant = variant_of(pairs(self.opts)) if self.variant is None else self.variant
        told = {"variant": variant, "shots": self.shots, "seed": self.seed, "start": self.init}
        return RunSpec(self.method, dataset, settings=settings, **{**told, **changes})


# Protocols ------------------------------------------------------------------------------------------------------------


def base2new(series: Series, dataset: str) -> list[Job]:
    """Train on the base classes (the first half), which also tests on them; then test on the new ones."""
    series = with_config(series, "base2new", dataset)
    if is_zero_shot(series.method):
        return [evaluation(series, dataset, classes=half) for half in ("base", "new")]
    base = training(series, dataset, classes="base")
    return [base, evaluation(series, dataset, base, classes="new")]


def fewshot(series: Series, dataset: str) -> list[Job]:
    """Train on a few images of all classes, test on all."""
    if is_zero_shot(series.method):
        return zeroshot(series, dataset)
    return [training(with_config(series, "fewshot", dataset), dataset)]


def transfer(series: Series, source: str, targets: Iterable[str], protocol: str = "xd") -> list[Job]:
    """Train on the source, test on it and, without training, on every target: xd, dg and pretraining."""
    if is_zero_shot(series.method):
        return [job for dataset in (source, *targets) for job in zeroshot(series, dataset)]
    series = with_config(series, protocol, source)
    always_test = ("TEST.NO_TEST", "False") if protocol == "pretrain" else ()
    trained = training(series, source, *always_test)
    return [trained] + [evaluation(series, target, trained) for target in targets]


def zeroshot(series: Series, dataset: str) -> list[Job]:
    """Test hand-written templates on all classes."""
    if not is_zero_shot(series.method):
        names = ", ".join(row.name for row in methods().values() if row.zero_shot)
        raise ValueError(f"the method of the zero-shot protocol must be one of {names}: {series.method}")
    return [evaluation(with_config(replace(series, shots=-1), "zeroshot", dataset), dataset)]


def jobs_of(protocol: str, series: Series, datasets: Iterable[str], source: str = "") -> list[Job]:
    """The jobs of one series; ``source`` counts for xd, dg and pretrain, whose data sets are the targets."""
    if protocol in TRANSFERS:
        return transfer(series, source, datasets, protocol)
    jobs_for = {"base2new": base2new, "fewshot": fewshot, "zeroshot": zeroshot}[protocol]
    return [job for dataset in datasets for job in jobs_for(series, dataset)]


def usual_data(protocol: str, world: World) -> tuple[str, tuple[str, ...]]:
    """Source and data sets of the papers' tables."""
    source, targets = world.source, (*world.targets, *world.others)
    if protocol == "pretrain":
        return world.pretraining, targets + world.shifts
    return source, {"xd": targets, "dg": world.shifts}.get(protocol, world.datasets)


def training(series: Series, dataset: str, *opts: str, classes: str = "all") -> Job:
    return _job(series, series.spec(dataset, classes=classes), series.needs, opts=opts)


def evaluation(series: Series, dataset: str, trained: Job | None = None, classes: str = "all") -> Job:
    """Of what ``trained`` leaves, or of templates."""
    source = trained.spec.dataset if trained else ""
    spec = series.spec(dataset, classes=classes, evaluation=True, source=source)
    loads = (trained.output_dir,) if trained else ()
    return _job(series, spec, loads, flags=[word for folder in loads for word in ("--model-dir", folder)])


def _job(
    series: Series, spec: RunSpec, needs: tuple[str, ...], flags: Sequence[str] = (), opts: Sequence[str] = ()
) -> Job:
    folder = spec.folder(series.out)
    imports = (word for module in series.imports for word in ("--import", module))
    root = ("--root", series.root) if series.root else ()
    path = series.config if is_path(series.config) else ""
    argv = spec.argv(path, "--output-dir", folder, *flags)
    return Job(spec, folder, (*imports, *root, *argv, *opts, *series.opts), needs)


# Settings -------------------------------------------------------------------------------------------------------------


def with_config(series: Series, protocol: str, dataset: str) -> Series:
    """The series with the protocol's settings, if it has none of its own."""
    check_method(series)
    return series if series.config else replace(series, config=default_config(series, protocol, dataset))


def check_method(series: Series) -> None:
    """``ValueError`` for a method that is neither in the table nor in a module that is imported."""
    known = [*methods()]
    if series.imports:
        from dassl.engine import TRAINER_REGISTRY  # not at the top: it needs torch, which a usage does not

        import_all(series.imports)
        known = TRAINER_REGISTRY.registered_names()
    if series.method not in known:
        raise ValueError(unknown("method", series.method, known))


def default_config(series: Series, protocol: str, dataset: str) -> str:
    """Stem of the settings that papers use, ``tiny`` for embedded data; ``ValueError`` if there are none."""
    method = series.method
    if dataset in EMBEDDED:
        own = protocol in TRANSFERS and "tiny_source" in settings_of(method)
        return "tiny_source" if own else "tiny"
    row = methods().get(method)
    if config := row.recipe(protocol, dataset, series.shots) if row else "":
        return config
    known = ", ".join(settings_of(method))
    raise ValueError(f"{method} has no default settings for {protocol}: give CFG, one of {known}")


# Command line ---------------------------------------------------------------------------------------------------------

PLACES = {
    "base2new": ("METHOD", "DATASET", "SEED", "CFG"),
    "fewshot": ("METHOD", "DATASET", "SHOTS", "SEED", "CFG"),
    "xd": ("METHOD", "SEED", "CFG"),
    "dg": ("METHOD", "SEED", "CFG"),
    "pretrain": ("METHOD", "SEED", "CFG"),
    "zeroshot": ("METHOD", "DATASET", "CFG"),
}


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ranks", type=int, default=1, metavar="N", help="processes of each training, on one GPU each or on the CPU"
    )


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    usage = "\n".join(f"  {name} {' '.join(places)} [KEY VALUE ...]" for name, places in PLACES.items())
    names = f"METHOD is one of: {', '.join(method_names())}"
    parser = argparse.ArgumentParser(
        prog="python -m tools.protocols",
        description=f"{__doc__}\nAll but METHOD may be left out from the right:\n\n{usage}\n\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("protocol", choices=PLACES)
    parser.add_argument("words", nargs="*", metavar="METHOD ...", help="see above")
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--out", default="output", help="folder of all results")
    parser.add_argument("--init", default="", help="pretrained prompts to start from: a file, or the folder of a run")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    add_ranks(parser)
    add_import(parser)
    args = parser.parse_intermixed_args(argv)
    if not args.words:
        parser.error(f"{args.protocol} needs {' '.join(PLACES[args.protocol])} [KEY VALUE ...]; {names}")
    return args


def read_words(protocol: str, words: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Arguments by place, and the KEY VALUE pairs behind them (keys are the words in capitals)."""
    given = [words[0], *takewhile(lambda word: not word.isupper(), words[1:])]
    opts = tuple(words[len(given) :])
    places = PLACES[protocol]
    if len(given) > len(places):
        raise ValueError(f"{protocol} takes {' '.join(places)} [KEY VALUE ...], but got {' '.join(words)}")
    return dict(zip(places, given)), opts


def data_from(args: argparse.Namespace, places: dict[str, str]) -> tuple[str, Sequence[str]]:
    """The data set that was asked for (without data sets: the first embedded one), or the protocol's own."""
    if args.protocol in TRANSFERS:
        return usual_data(args.protocol, REAL if args.root else EMBEDDED)
    if args.root and "DATASET" not in places:
        raise ValueError(f"{args.protocol} needs a DATASET, such as {REAL.targets[0]}")
    return "", [places.get("DATASET", EMBEDDED.targets[0])]


def series_from(args: argparse.Namespace, places: dict[str, str], opts: tuple[str, ...]) -> Series:
    shots, opts = take_shots(opts)
    usual = (REAL if args.root else EMBEDDED).source_shots if args.protocol in TRANSFERS else 16
    return Series(
        method=places["METHOD"],
        seed=number(places, "SEED", 1),
        config=places.get("CFG", ""),
        shots=shots or number(places, "SHOTS", usual),
        opts=opts,
        init=args.init,
        root=args.root,
        out=args.out,
        imports=tuple(args.imports),
    )


def number(places: dict[str, str], name: str, default: int) -> int:
    if not (text := places.get(name, str(default))).isdecimal():
        raise ValueError(f"{name} must be a number, but got {text!r}")
    return int(text)


def take_shots(opts: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """DATASET.NUM_SHOTS, which folders are named after (0: not given), and the other options."""
    given = pairs(opts)
    shots = int(given.pop("DATASET.NUM_SHOTS", 0))
    return shots, tuple(word for pair in given.items() for word in pair)


def print_table(jobs: Sequence[Job], compare: Sequence[tuple[str, str]] = ()) -> None:
    """The table of those jobs that are done: of the split that they say (TEST.SPLIT); ``compare``: rows to subtract."""
    split = dict(zip(jobs[0].argv, jobs[0].argv[1:])).get("TEST.SPLIT", "test")
    done = [Path(job.output_dir) for job in jobs if (Path(job.output_dir) / "metrics.json").is_file()]
    runs = read_runs(done, split)
    print("" if split == "test" else f"\nAccuracy on the {split} split")
    tables = build(runs)
    print("\n" + render([paper_grid(table) for table in tables], "text"))
    if compare:
        print(compared(tables, compare, "text"))


def run(args: argparse.Namespace) -> int:
    places, opts = read_words(args.protocol, args.words)
    source, datasets = data_from(args, places)
    planned = jobs_of(args.protocol, series_from(args, places, opts), datasets, source)
    jobs = [shared_out(job, args.ranks) for job in planned]
    if args.dry_run:
        print("\n".join(job.command() for job in jobs))
        return 0
    bad = carry_out(jobs, [local_worker()])
    if len(bad) < len(jobs):
        print_table(jobs)
    return 1 if bad else 0


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
