"""The command line of ``train.py`` to a run: its config, and what it is. All other commands read it here, too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs import ROOT as CONFIGS
from configs import methods, settings_file
from configs.runs import RunSpec, is_zero_shot, pairs, variant_of
from configs.worlds import EMBEDDED, stem
from dassl.config import CfgNode, get_cfg_default, merge_from_file, merge_from_list
from dassl.utils import log, read_json

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


def parse_args(argv: Sequence[str] | None = None, about: str = "") -> argparse.Namespace:
    """about: the command's description."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="of the settings, in folders and tables (default: made of the KEY VALUE pairs)",
    )
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
    given = pairs(args.opts)
    check_trainer(args, given.get("TRAINER.NAME", args.trainer))
    if args.dataset_config_file:
        merge_from_file(cfg, settings_file(args.dataset_config_file))
    elif "DATASET.NAME" not in given:
        merge_embedded(cfg, EMBEDDED_DATASET, "data set")
    if args.config_file:
        merge_from_file(cfg, settings_file(args.config_file))
    elif not chooses_backbone(args):
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
        cfg.OUTPUT_DIR = spec_of(args, cfg).folder()
    cfg.freeze()
    return cfg


def chooses_backbone(args: argparse.Namespace) -> bool:
    """On the command line: then the embedded world's settings would not fit."""
    return bool(args.backbone) or "MODEL.BACKBONE.NAME" in args.opts[::2]


def check_trainer(args: argparse.Namespace, name: str) -> None:
    """UnknownNameError for a method that is not there, which tells what to import if a run that is named knows it."""
    from dassl.engine.record import recorded_config
    from trainers.load import check_known

    own = own_folder(args)
    if name := name or (str(recorded_config(str(own)).get("TRAINER.NAME", "")) if own else ""):
        check_known(name, *filter(None, (args.model_dir, args.resume, args.output_dir, own)))


def own_folder(args: argparse.Namespace) -> Path | None:
    """Of the run whose ``config.yaml`` serves as settings, if it does."""
    path = Path(args.config_file)
    return path.parent if path.name == "config.yaml" else None


def merge_embedded(cfg: CfgNode, path: Path, what: str) -> None:
    log.info(f"No {what} given: taking the embedded world's, {path.relative_to(CONFIGS.parent)}")
    merge_from_file(cfg, str(path))


def tiny_settings(trainer: str, dataset: str) -> Path:
    """The method's yaml for the tiny CLIP; ValueError if there is none, or the data set is not an embedded one."""
    from dassl.engine import TRAINER_REGISTRY

    folder = CONFIGS / "trainers" / trainer
    if trainer not in TRAINER_REGISTRY.registered_names():
        TRAINER_REGISTRY.get(trainer)  # raises, and offers the nearest names
    if stem(dataset) not in EMBEDDED or not (folder / "tiny.yaml").is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.yaml"))) or "none"
        raise ValueError(f"Give --config-file for {trainer} on {dataset}; in {folder} there are: {files}")
    return folder / "tiny.yaml"


def spec_of(args: argparse.Namespace, cfg: CfgNode) -> RunSpec:
    """What the run is. An evaluation is told by the record of what it loads, as far as there is one."""
    spec = RunSpec(
        method=cfg.TRAINER.NAME,
        dataset=stem(cfg.DATASET.NAME, cfg.DATASET.PATH),
        classes=cfg.DATASET.SUBSAMPLE_CLASSES,
        settings=Path(args.config_file).stem if args.config_file else "" if chooses_backbone(args) else "tiny",
        variant=variant_of(pairs(args.opts)) if args.variant is None else args.variant,
        shots=cfg.DATASET.NUM_SHOTS,
        seed=cfg.SEED,
        start=cfg.TRAINER.INIT_PROMPTS,
        evaluation=args.eval_only,
    )
    if is_zero_shot(spec.method) and spec.classes == "all":
        spec = replace(spec, shots=-1)  # no image is trained on; with half of the classes folders are called after it
    if own := (folder := own_folder(args)) and recorded_spec(folder):  # its settings once more
        spec = replace(spec, settings=own.settings, variant="-".join(filter(None, (own.variant, spec.variant))))
    loaded = (args.model_dir or cfg.TRAINER.INIT_PROMPTS) if args.eval_only else ""
    if origin := loaded and recorded_spec(Path(loaded)):
        told = {name: getattr(origin, name) for name in ("settings", "variant", "shots", "start")}
        return replace(spec, **told, source=origin.dataset)
    return spec


def recorded_spec(folder: Path) -> RunSpec | None:
    """Of a run that has ended; None if nothing of it is on record there."""
    path = folder / "metrics.json"
    record = read_json(str(path)) if path.is_file() else None
    found = record.get("run") if isinstance(record, dict) else None
    return RunSpec.of_record(found) if isinstance(found, dict) else None
