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
from contextlib import ExitStack
from dataclasses import replace

from dassl.config import CfgNode, flatten_cfg, get_cfg_default, solve_batch
from dassl.utils import collect_env_info, exit_status, log, set_exact_fp32, set_random_seed, setup_logger, sole_user_of
from tools.command import parse_args, setup_cfg, spec_of

# What needs torch is imported by the functions that use it: it takes seconds, and a usage needs none of it.


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
    trainer.record.run = replace(spec_of(args, cfg), seed=trainer.run_seed).record()
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
    args = parse_args(argv, __doc__)
    if args.traceback:
        return run(args) or 0
    return exit_status(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
