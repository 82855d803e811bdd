"""Classifiers from names and files: by a trainer for its run, and by anybody for a run that has ended.

classifier = load_classifier("output/run", ["red fox", "badger"])      # or a checkpoint, or a backbone's name
classifier.predict("photo.jpg", topk=2)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clip.clip import PIXEL_MEAN, PIXEL_STD, load_frozen
from configs import methods
from dassl.config import CfgNode, check_values, get_cfg_default, merge_from_file, merge_from_list
from dassl.data.transforms import build_transform
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.record import recorded_config
from dassl.ranks import Ranks, current
from dassl.utils import log, read_json
from dassl.utils.registry import UnknownNameError, nearest_names

from .checkpoints import load_prompts
from .method import Method, Options
from .options import read_options
from .prompted_clip import TEMPLATE, PromptedCLIP

ZERO_SHOT = next(name for name, row in methods().items() if row.zero_shot)  # the first: one template


def build_classifier(
    method: type[Method],
    options: Options,
    cfg: CfgNode,
    classnames: Sequence[str],
    template: str = TEMPLATE,
    ensemble: Sequence[str] = (),
) -> PromptedCLIP:
    """The classifier of a config's backbone, on its device."""
    backbone, device = cfg.MODEL.BACKBONE, device_of(cfg)
    precision = options.PREC
    if precision == "auto":
        precision = "fp16" if device.type == "cuda" else "fp32"
    log.info(f"Loading CLIP (backbone: {backbone.NAME or backbone.PATH})")
    clip = load_frozen(backbone.NAME, backbone.PATH, precision)
    log.info("Building custom CLIP")
    made = method(clip, options, len(classnames))
    ranks = current() if cfg.MODEL.SHARD_CLASSES else Ranks()
    if ranks.size > len(classnames):
        raise ValueError(
            f"{ranks.size} processes cannot share {len(classnames)} classes: start fewer with --nproc_per_node, or let"
            " each encode all of them, MODEL.SHARD_CLASSES False"
        )
    memory_gb = cfg.MODEL.TEXT_MEMORY_GB
    return PromptedCLIP(clip, made, classnames, template, ensemble, memory_gb, precision, ranks).to(device)


def device_of(cfg: CfgNode) -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")


def load_classifier(
    source: str | Path, classnames: Sequence[str] = (), epoch: int | None = None, opts: Sequence[object] = ()
) -> PromptedCLIP:
    """A classifier in evaluation mode: of a run, by its folder or one of its checkpoints, or zero-shot, by the name or
    the weights file of a backbone.

    classnames: any; those of the training if there are none. epoch: of the run; else its best, else the newest. opts:
    KEY VALUE words that change the run's config.
    Raises FileNotFoundError or ValueError that says what is missing or does not fit.
    """
    cfg, path = default_config(), Path(source).expanduser()
    folders = (
        [path] if path.is_dir() else [one for one in path.absolute().parents[:2] if (one / "config.yaml").is_file()]
    )
    if path.exists() and folders:
        return load_run(folders[0], path, cfg, classnames, epoch, opts)
    key = "PATH" if path.is_file() else "NAME"
    merge_from_list(cfg, [f"MODEL.BACKBONE.{key}", str(source), *opts])
    if not classnames:
        raise ValueError(f"Give class names: {source} is a backbone and knows none")
    return finish(TRAINER_REGISTRY.get(ZERO_SHOT).method, cfg, classnames, cfg.DATASET.TEMPLATE or TEMPLATE)


def load_run(
    folder: Path, prompts: Path, cfg: CfgNode, classnames: Sequence[str], epoch: int | None, opts: Sequence[object]
) -> PromptedCLIP:
    """As ``folder`` records, with the prompts of a file, or of the folder itself."""
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.yaml")
    if not (trainer := recorded_config(str(folder)).get("TRAINER.NAME")):
        path = folder / "config.yaml"
        raise ValueError(f"{path} does not say what was trained (TRAINER.NAME); is the file complete?")
    check_known(str(trainer), folder)
    merge_from_file(cfg, str(folder / "config.yaml"))
    merge_from_list(cfg, list(opts))
    record = read_record(folder)
    classnames = classnames or trained_classes(folder, record)
    told = record if isinstance(record, Mapping) else {}
    template = cfg.DATASET.TEMPLATE or told.get("template") or TEMPLATE
    ensemble = told.get("templates", ()) if template == told.get("template") else ()
    if (method := getattr(TRAINER_REGISTRY.get(cfg.TRAINER.NAME), "method", None)) is None:
        raise ValueError(f"{cfg.TRAINER.NAME} is a trainer without a method (trainers.Method): nothing to predict with")
    classifier = finish(method, cfg, classnames, template, ensemble)
    if any(True for _ in classifier.method.parameters()):
        load_prompts(classifier, str(prompts), epoch)
    return classifier


def read_record(folder: Path) -> dict[str, Any]:
    """A run's ``metrics.json``; empty if it has none."""
    return read_json(str(folder / "metrics.json")) if (folder / "metrics.json").is_file() else {}


def check_known(trainer: str, *folders: str | Path) -> None:
    """UnknownNameError for a trainer that is not registered, which tells the module that a run of it in one of the
    folders has on record. It is only told: what a file names is never imported."""
    if trainer in TRAINER_REGISTRY:
        return
    records = (read_record(Path(folder)) for folder in folders)
    runs = [record for record in records if isinstance(record, Mapping) and record.get("trainer") == trainer]
    modules = [record.get("trainer_module") for record in runs]
    named = [module for module in modules if isinstance(module, str) and re.fullmatch(r"\w+(\.\w+)*", module)]
    near = nearest_names(trainer, TRAINER_REGISTRY.registered_names())
    hint = f"; nearest: {', '.join(near)}" if near and not named else ""
    raise UnknownNameError(
        f'There is no trainer "{trainer}"{hint}; if it is a method of your own, give --import'
        f" {named[0] if named else 'MODULE'}, or in Python call trainers.register"
    )


def trained_classes(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """Class names of a run; ValueError if its record does not tell."""
    if not record:
        reason = "has no metrics.json (the training has not ended)"
    elif not isinstance(record, Mapping):
        reason = "has a metrics.json that is not the record of a run"
    elif record.get("eval_only") and record.get("model_dir"):
        reason = f"was evaluated with prompts of {record['model_dir']}, whose classes may be others"
    elif "classnames" not in record:
        reason = "does not record its class names"
    else:
        return record["classnames"]
    raise ValueError(f"{folder} {reason}: give the class names, --classes cat dog, or --classnames-file names.txt")


def finish(
    method: type[Method], cfg: CfgNode, classnames: Sequence[str], template: str, ensemble: Sequence[str] = ()
) -> PromptedCLIP:
    """The classifier of a checked config, in evaluation mode, with the transform of its images."""
    check_values(cfg)
    options = read_options(method.Options, method_section(cfg, method), method.section())
    classifier = build_classifier(method, options, cfg, classnames, template, ensemble).eval()
    size = classifier.clip.visual.input_resolution
    cfg.INPUT.SIZE = (size, size)
    classifier.transform = build_transform(cfg, is_train=False)
    classifier.pixel_mean, classifier.pixel_std = list(cfg.INPUT.PIXEL_MEAN), list(cfg.INPUT.PIXEL_STD)
    return classifier


def method_section(cfg: CfgNode, method: type[Method]) -> CfgNode:
    """A method's own section of the config tree."""
    return cfg.TRAINER[method.section().removeprefix("TRAINER.")]


def drop_other_sections(cfg: CfgNode, method: type[Method]) -> None:
    """Leave a config the section of one method: the record is of that run, not of what else there was."""
    for name in TRAINER_REGISTRY.registered_names():
        other = getattr(TRAINER_REGISTRY.get(name), "method", method)
        if other.section() != method.section():
            cfg.TRAINER.pop(other.section().removeprefix("TRAINER."), None)


def default_config() -> CfgNode:
    """The engine's defaults and ours."""
    from . import extend_cfg  # the methods that there are

    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def check_input(cfg: CfgNode, wanted: int) -> None:
    """ValueError if the images that the config makes are not those that the backbone takes, ``wanted`` pixels high."""
    if (size := tuple(cfg.INPUT.SIZE)) != (wanted, wanted):
        raise ValueError(
            f"INPUT.SIZE is {size}, but {cfg.MODEL.BACKBONE.NAME or 'the backbone'} takes ({wanted}, {wanted})"
        )
    if not torch.allclose(
        torch.tensor([*cfg.INPUT.PIXEL_MEAN, *cfg.INPUT.PIXEL_STD]), torch.tensor(PIXEL_MEAN + PIXEL_STD)
    ):
        log.info("Note: INPUT.PIXEL_MEAN / PIXEL_STD are not CLIP's")
