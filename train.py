"""Train and evaluate a method on a data set.

    python train.py --trainer RPP                       # embedded data, tiny CLIP: runs anywhere in a minute
    python train.py --trainer MaPLe --root $DATA --seed 1 --output-dir output/run \\
        --dataset-config-file configs/datasets/dtd.yaml \\
        --config-file configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml DATASET.NUM_SHOTS 16

Several GPUs: torchrun --nproc_per_node 8 train.py ... (docs/pretraining.md).

Options are merged in this order, later ones win: defaults, data set yaml, method yaml, arguments, KEY VALUE pairs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from configs import ROOT as CONFIGS
from configs import methods, settings_file
from dassl.config import CfgNode, flatten_cfg, get_cfg_default, merge_from_file, merge_from_list, solve_batch
from dassl.utils import collect_env_info, exit_status, log, set_exact_fp32, set_random_seed, setup_logger, sole_user_of

# What needs torch is imported by the functions that use it: it takes seconds, and a usage needs none of it.

EMBEDDED_DATASET = CONFIGS / "datasets" / "tiny_shapes.yaml"


def method_names() -> list[str]:
    """Those of the table."""
    return sorted(methods())


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="of a method outside this folder, such as my_package.my_method; may be given again",
    )


def import_all(modules: Sequence[str]) -> None:
    """Register the methods of modules; ValueError for one that cannot be imported, or has none."""
    from trainers import import_methods

    for module in modules:
        import_methods(module)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="", help="folder of the data sets")
    parser.add_argument("--output-dir", default="", help="folder of the run (default: below output/)")
    parser.add_argument(
        "--resume", default="", help="folder of a run to go on with (default: the output folder itself)"
    )
    parser.add_argument("--seed", type=int, help="of everything random; negative: none")
    parser.add_argument("--source-domains", nargs="+")
    parser.add_argument("--target-domains", nargs="+")
    parser.add_argument("--transforms", nargs="+", help="names of training transforms")
    parser.add_argument("--config-file", default="", help="method yaml, below configs/trainers")
    parser.add_argument("--dataset-config-file", default="", help="data set yaml, below configs/datasets")
    parser.add_argument("--trainer", default="", help=f"name of the method: {', '.join(method_names())}")
    add_import(parser)
    parser.add_argument("--backbone", default="", help="CLIP model, e.g. ViT-B/16")
    parser.add_argument("--head", default="", help="unused, for scripts that pass it")
    parser.add_argument("--eval-only", action="store_true", help="load --model-dir and evaluate")
    parser.add_argument("--model-dir", default="", help="folder of the run whose prompts are evaluated")
    parser.add_argument(
        "--load-epoch", type=int, help="epoch to load for evaluation (default: the best model, else the newest)"
    )
    parser.add_argument("--no-train", action="store_true", help="build everything and stop")
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="seconds that torchrun's processes wait for one that is silent"
    )
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs")
    args = parser.parse_args(argv)
    for name in ("source_domains", "target_domains", "transforms"):
        give_back_pairs(parser, args, name)
    return args


def give_back_pairs(parser: argparse.ArgumentParser, args: argparse.Namespace, name: str) -> None:
    """What a flag of several words took of the KEY VALUE pairs behind it: all from the first key on."""
    given = getattr(args, name) or []
    keys = [i for i, word in enumerate(given) if word.isupper() and ("." in word or word in get_cfg_default())]
    if keys:
        setattr(args, name, given[: keys[0]])
        args.opts = given[keys[0] :] + args.opts
        if not keys[0]:
            parser.error(f"argument --{name.replace('_', '-')}: expected at least one name before {given[0]}")


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen config; without a data set or a method yaml the embedded ones are taken, and it says so."""
    from trainers import extend_cfg

    import_all(args.imports)
    cfg = get_cfg_default()
    extend_cfg(cfg)
    given = dict(zip(args.opts[::2], args.opts[1::2]))
    check_trainer(args, given.get("TRAINER.NAME", args.trainer))
    if args.dataset_config_file:
        merge_from_file(cfg, settings_file(args.dataset_config_file))
    elif "DATASET.NAME" not in given:
        merge_embedded(cfg, EMBEDDED_DATASET, "data set")
    if args.config_file:
        merge_from_file(cfg, settings_file(args.config_file))
    elif not (args.backbone or "MODEL.BACKBONE.NAME" in given):
        trainer = given.get("TRAINER.NAME", args.trainer)
        merge_embedded(cfg, tiny_settings(trainer, given.get("DATASET.NAME", cfg.DATASET.NAME)), "method settings")
    arguments = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed,
        "DATASET.SOURCE_DOMAINS": args.source_domains and tuple(args.source_domains),
        "DATASET.TARGET_DOMAINS": args.target_domains and tuple(args.target_domains),
        "INPUT.TRANSFORMS": args.transforms and tuple(args.transforms),
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    merge_from_list(cfg, [word for pair in arguments.items() if pair[1] not in ("", None) for word in pair])
    merge_from_list(cfg, args.opts)
    if not (args.output_dir or "OUTPUT_DIR" in given):
        cfg.OUTPUT_DIR = default_output_dir(cfg, args)
    cfg.freeze()
    return cfg


def check_trainer(args: argparse.Namespace, name: str) -> None:
    """UnknownNameError for a method that is not there, which tells what to import if a run that is named knows it."""
    from dassl.engine.record import recorded_config
    from trainers.load import check_known

    own_config = Path(args.config_file).parent if Path(args.config_file).name == "config.yaml" else ""
    if name := name or (str(recorded_config(str(own_config)).get("TRAINER.NAME", "")) if own_config else ""):
        check_known(name, *filter(None, (args.model_dir, args.resume, args.output_dir, own_config)))


def default_output_dir(cfg: CfgNode, args: argparse.Namespace) -> str:
    """A folder of its own for every data set, method, settings file and seed."""
    settings = Path(args.config_file).stem if args.config_file else "tiny"
    parts = ["evaluation"] if args.eval_only else []
    return str(Path("output", *parts, cfg.DATASET.NAME, cfg.TRAINER.NAME, settings, f"seed{cfg.SEED}"))


def merge_embedded(cfg: CfgNode, path: Path, what: str) -> None:
    log.info(f"No {what} given: taking the embedded world's, {path.relative_to(CONFIGS.parent)}")
    merge_from_file(cfg, str(path))


def tiny_settings(trainer: str, dataset: str) -> Path:
    """The method's yaml for the tiny CLIP; ValueError if there is none, or the data set is not an embedded one."""
    from dassl.engine import TRAINER_REGISTRY

    folder = CONFIGS / "trainers" / trainer
    if trainer not in TRAINER_REGISTRY.registered_names():
        TRAINER_REGISTRY.get(trainer)  # raises, and offers the nearest names
    if not dataset.startswith("Tiny") or not (folder / "tiny.yaml").is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.yaml"))) or "none"
        raise ValueError(f"Give --config-file for {trainer} on {dataset}; in {folder} there are: {files}")
    return folder / "tiny.yaml"


def run(args: argparse.Namespace) -> None:
    from dassl import ranks
    from datasets import EMBEDDED  # noqa: F401 - registers the data sets; no other package's datasets has it

    check_arguments(args)
    processes = ranks.start(args.timeout)
    try:
        with processes.together():
            cfg = setup_cfg(args)
        if processes.size > 1:
            processes.check_same(decisive(args, cfg))
        with ExitStack() as folder:
            processes.on_first(lambda: open_folder(args, cfg, folder))
            run_in_folder(args, cfg)
    finally:
        ranks.stop()


def check_arguments(args: argparse.Namespace) -> None:
    """ValueError for arguments that do not go together."""
    has_epoch = args.load_epoch is not None
    if not args.eval_only and (args.model_dir or has_epoch):
        raise ValueError(
            f"{'--model-dir' if args.model_dir else '--load-epoch'} is for evaluation: add --eval-only,"
            " or, to train from the prompts of a run, give its folder as TRAINER.INIT_PROMPTS"
        )
    if has_epoch and not args.model_dir:
        raise ValueError("--load-epoch needs --model-dir, the folder of the run that has this epoch")


def decisive(args: argparse.Namespace, cfg: CfgNode) -> dict[str, object]:
    """What all processes of a run must have in common."""
    own = ("DATALOADER.NUM_WORKERS", "DATASET.ROOT", "DATASET.PATH", "MODEL.BACKBONE.PATH")  # as each machine has it
    options = {key: value for key, value in flatten_cfg(cfg).items() if key not in own}
    return {f"--{name.replace('_', '-')}": getattr(args, name) for name in ("eval_only", "no_train")} | options


def open_folder(args: argparse.Namespace, cfg: CfgNode, folder: ExitStack) -> None:
    """Keep others out of the run's folder; ValueError if it is in use, or holds another run."""
    from dassl.engine.record import RunRecord, recorded_config

    folder.enter_context(sole_user_of(cfg.OUTPUT_DIR))
    seed = cfg.SEED if cfg.SEED >= 0 else recorded_config(cfg.OUTPUT_DIR).get("SEED", -1)
    RunRecord(cfg, seed).check_folder(args.eval_only, args.model_dir, args.load_epoch)


def run_in_folder(args: argparse.Namespace, cfg: CfgNode) -> None:
    import torch

    from dassl.engine import build_trainer
    from dassl.ranks import current

    if cfg.SEED >= 0:
        log.info(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    if current().is_first:
        setup_logger(cfg.OUTPUT_DIR)
    set_exact_fp32()
    if torch.cuda.is_available() and cfg.USE_CUDA:
        torch.backends.cudnn.benchmark = True
    print_header(args, cfg)
    trainer = build_trainer(cfg)
    if args.eval_only:
        if trainer.get_model_names() and not (args.model_dir or cfg.TRAINER.INIT_PROMPTS):
            raise ValueError(
                f"--eval-only of {cfg.TRAINER.NAME}, which learns, needs a model:"
                " give --model-dir, the folder of a training run, or TRAINER.INIT_PROMPTS"
            )
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        trainer.train()


def print_header(args: argparse.Namespace, cfg: CfgNode) -> None:
    """What was asked for, and the machine, under the headings of the family's logs."""
    from dassl.ranks import current

    log.info("***************\n** Arguments **\n***************")
    for name, value in sorted(vars(args).items()):
        if value not in (None, "", False, []):
            log.info(f"{name}: {value}")
    log.info("************\n** Config **\n************")
    for key, value in chosen_options(cfg).items():
        log.info(f"{key}: {value}")
    log.info(f"(every option: {os.path.join(cfg.OUTPUT_DIR, 'config.yaml')})")
    batch = solve_batch(cfg, current().size)
    log.info(
        f"Images a step: {batch.OPTIM.GLOBAL_BATCH} = processes ({batch.NUM_RANKS}) x BATCH_SIZE"
        f" ({batch.DATALOADER.TRAIN_X.BATCH_SIZE}) x ACCUM_STEPS ({batch.OPTIM.ACCUM_STEPS})"
    )
    log.info(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")


def chosen_options(cfg: CfgNode) -> dict[str, object]:
    """Those that are not the engine's defaults, and all of the method's own; not those of other methods."""
    from dassl.engine import TRAINER_REGISTRY

    trainers = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    sections = {name: f"{kind.method.section()}." for name, kind in trainers.items() if hasattr(kind, "method")}
    own, plain = sections.get(cfg.TRAINER.NAME, "TRAINER."), flatten_cfg(get_cfg_default())
    others = tuple(section for section in sections.values() if section != own)
    return {
        key: value
        for key, value in sorted(flatten_cfg(cfg).items())
        if key.startswith(own) or (not key.startswith(others) and value != plain.get(key))
    }


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.traceback:
        return run(args) or 0
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
