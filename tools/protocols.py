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

from configs import methods
from dassl.utils import exit_status
from dassl.utils.registry import nearest_names
from tools.jobs import Job, carry_out, shared_out
from tools.results.render import paper_grid, render
from tools.results.report import compared
from tools.results.runs import read_runs
from tools.results.tables import BENCHMARK, IMAGENET_SHIFTS, TINY_OTHERS, TINY_SHIFTS, TINY_TARGETS, build
from tools.workers import local_worker
from train import CONFIGS, add_import, import_all, method_names

TRANSFERS = ("xd", "dg", "pretrain")


@dataclass(frozen=True)
class World:
    """source, source_shots: what xd and dg learn from; pretraining: the broadest set; targets of xd; shifts: of dg."""

    source: str
    source_shots: int
    pretraining: str
    targets: tuple[str, ...]
    shifts: tuple[str, ...]


REAL = World("imagenet", 16, "imagenet_21k", BENCHMARK[1:], IMAGENET_SHIFTS)
EMBEDDED = World("tiny_source", 8, "tiny_source", (*TINY_TARGETS, *TINY_OTHERS), TINY_SHIFTS)


@dataclass(frozen=True)
class Series:
    """One method with one seed, under any protocol.

    config: stem or path of its settings, "" for the protocol's default; variant: added to the settings' name in
    folders, for runs that ``opts`` (KEY VALUE ...) tell apart. init: prompts to start from, and needs: the run that
    makes them. imports: modules of methods outside the tree.
    """

    method: str
    seed: int = 1
    config: str = ""
    variant: str = ""
    shots: int = 16
    opts: tuple[str, ...] = ()
    init: str = ""
    needs: tuple[str, ...] = ()
    root: str = ""
    out: str = "output"
    imports: tuple[str, ...] = ()

    @property
    def zero_shot(self) -> bool:
        return self.method in zero_shot_methods()

    @property
    def settings(self) -> str:
        """As folders name them."""
        return Path(self.config).stem if is_path(self.config) else self.config


# Protocols ------------------------------------------------------------------------------------------------------------


def base2new(series: Series, dataset: str) -> list[Job]:
    """Train on the base classes (the first half), which also tests on them; then test on the new ones."""
    series = with_config(series, "base2new", dataset)
    name = f"{dataset}/shots_{series.shots}/{series.method}/{series.settings}{series.variant}/seed{series.seed}"
    base = f"{series.out}/base2new/{'test_base' if series.zero_shot else 'train_base'}/{name}"
    new = f"{series.out}/base2new/test_new/{name}"
    few = ("DATASET.NUM_SHOTS", str(series.shots))
    if series.zero_shot:
        first = evaluation(series, dataset, base, "", *few, "DATASET.SUBSAMPLE_CLASSES", "base")
    else:
        first = training(series, dataset, base, "DATASET.SUBSAMPLE_CLASSES", "base")
    loads = "" if series.zero_shot else base
    return [first, evaluation(series, dataset, new, loads, *few, "DATASET.SUBSAMPLE_CLASSES", "new")]


def fewshot(series: Series, dataset: str) -> list[Job]:
    """Train on a few images of all classes, test on all."""
    if series.zero_shot:
        return zeroshot(series, dataset)
    series = with_config(series, "fewshot", dataset)
    return [training(series, dataset, home(series, dataset))]


def transfer(series: Series, source: str, targets: Iterable[str], protocol: str = "xd") -> list[Job]:
    """Train on the source, test on it and, without training, on every target: xd, dg and pretraining."""
    if series.zero_shot:
        return [job for dataset in (source, *targets) for job in zeroshot(series, dataset)]
    series = with_config(series, protocol, source)
    folder = home(series, source)
    always_test = ("TEST.NO_TEST", "False") if protocol == "pretrain" else ()
    name = f"{series.settings}{series.variant}_{series.shots}shots"
    return [training(series, source, folder, *always_test)] + [
        evaluation(series, target, f"{series.out}/evaluation/{series.method}/{name}/{target}/seed{series.seed}", folder)
        for target in targets
    ]


def zeroshot(series: Series, dataset: str) -> list[Job]:
    """Test hand-written templates on all classes."""
    if not series.zero_shot:
        raise ValueError(
            f"the method of the zero-shot protocol must be one of {', '.join(zero_shot_methods())}: {series.method}"
        )
    series = with_config(series, "zeroshot", dataset)
    folder = f"{series.out}/{series.method}/{series.settings}{series.variant}/{dataset}"
    return [evaluation(series, dataset, folder, "")]


def jobs_of(protocol: str, series: Series, datasets: Iterable[str], source: str = "") -> list[Job]:
    """The jobs of one series; ``source`` counts for xd, dg and pretrain, whose data sets are the targets."""
    if protocol in TRANSFERS:
        return transfer(series, source, datasets, protocol)
    jobs_for = {"base2new": base2new, "fewshot": fewshot, "zeroshot": zeroshot}[protocol]
    return [job for dataset in datasets for job in jobs_for(series, dataset)]


def usual_data(protocol: str, world: World) -> tuple[str, tuple[str, ...]]:
    """Source and data sets of the papers' tables."""
    source = world.pretraining if protocol == "pretrain" else world.source
    targets = {"xd": world.targets, "dg": world.shifts, "pretrain": world.targets + world.shifts}
    return source, targets.get(protocol, (world.source, *world.targets))


def home(series: Series, dataset: str) -> str:
    """Folder of a run that is trained on all classes of ``dataset``."""
    name = f"{series.settings}{series.variant}_{series.shots}shots"
    return f"{series.out}/{dataset}/{series.method}/{name}/seed{series.seed}"


def training(series: Series, dataset: str, folder: str, *opts: str) -> Job:
    init = ("TRAINER.INIT_PROMPTS", series.init) if series.init else ()
    words = ("DATASET.NUM_SHOTS", str(series.shots), *opts, *init, *series.opts)
    return Job(folder, (*arguments(series, dataset, folder), *words), series.needs)


def evaluation(series: Series, dataset: str, folder: str, model_dir: str, *opts: str) -> Job:
    loads = ("--model-dir", model_dir) if model_dir else ()
    words = (*arguments(series, dataset, folder), "--eval-only", *loads, *opts, *series.opts)
    return Job(folder, words, (model_dir,) if model_dir else ())


def arguments(series: Series, dataset: str, folder: str) -> tuple[str, ...]:
    """What every run of ``train.py`` is given."""
    return (
        *(word for module in series.imports for word in ("--import", module)),
        *(("--root", series.root) if series.root else ()),
        *("--seed", str(series.seed), "--trainer", series.method),
        *("--dataset-config-file", dataset_file(dataset), "--config-file", config_file(series.method, series.config)),
        *("--output-dir", folder),
    )


# Settings -------------------------------------------------------------------------------------------------------------


def embedded(dataset: str) -> bool:
    return dataset.startswith("tiny_")


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


def zero_shot_methods() -> list[str]:
    return [row.name for row in methods().values() if row.zero_shot]


def default_config(series: Series, protocol: str, dataset: str) -> str:
    """Stem of the settings that papers use, ``tiny`` for embedded data; ``ValueError`` if there are none."""
    method = series.method
    if embedded(dataset):
        own = protocol in TRANSFERS and "tiny_source" in stems(method)
        return "tiny_source" if own else "tiny"
    row = methods().get(method)
    if config := row.recipe(protocol, dataset, series.shots) if row else "":
        return config
    raise ValueError(f"{method} has no default settings for {protocol}: give CFG, one of {', '.join(stems(method))}")


def stems(method: str) -> list[str]:
    """Names of the method's settings in the tree; ``ValueError`` if it has none there."""
    if not (names := sorted(path.stem for path in (CONFIGS / "trainers" / method).glob("*.yaml"))):
        raise ValueError(f"{method} has no settings in configs/trainers: give CFG, the path of a yaml")
    return names


def is_path(config: str) -> bool:
    return config.endswith(".yaml")


def config_file(method: str, config: str) -> str:
    """Path of the method's settings: its own, or those of the method that shares them."""
    if is_path(config):
        if not Path(config).is_file():
            raise FileNotFoundError(f"no settings (CFG) {config}")
        return config
    folder = method if config in stems(method) else methods()[method].settings
    if config not in stems(folder):
        raise ValueError(unknown(f"settings (CFG) of {method}", config, stems(folder)))
    return os.path.relpath(CONFIGS / "trainers" / folder / f"{config}.yaml")


def dataset_file(dataset: str) -> str:
    path = CONFIGS / "datasets" / f"{dataset}.yaml"
    if not path.is_file():
        raise ValueError(unknown("data set", dataset, [file.stem for file in path.parent.glob("*.yaml")]))
    return os.path.relpath(path)


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = nearest_names(name, known)
    return f"unknown {what} {name!r}; " + (f"did you mean {', '.join(near)}?" if near else f"known: {sorted(known)}")


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
        variant="-pretrained" if args.init else "",
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
    pairs = [*zip(opts[::2], opts[1::2])] if len(opts) % 2 == 0 else None
    if pairs is None:
        raise ValueError(f"options come in pairs KEY VALUE, but got {' '.join(opts)}")
    shots = [int(value) for key, value in pairs if key == "DATASET.NUM_SHOTS"]
    rest = [word for pair in pairs if pair[0] != "DATASET.NUM_SHOTS" for word in pair]
    return (shots[-1] if shots else 0), tuple(rest)


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
