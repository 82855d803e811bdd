"""A data set of striped swatches, small random CLIPs as files, and trainers built on them in a fraction of a second.

Methods come from their table, each with its settings for the tiny CLIP, which fit the small one: a new row is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import configs
from dassl.config import CfgNode, flatten_cfg, get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from datasets.base import ImageDataset
from datasets.splits import Item, Split
from tests.clip.small import SIZE, small_clip
from trainers import Method, PromptTrainer, extend_cfg
from trainers.options import defaults, read_options

from .plain import CONTEXT_LENGTH

CLASSNAMES = ["red", "dark_blue", "green", "striped_yellow_umbrella", "grey", "old_pink_house"]
Settings = dict[str, object]


def method_class(name: str) -> type[Method]:
    return TRAINER_REGISTRY.get(name).method


def tiny_settings(name: str) -> Settings:
    """A method's own section of its yaml for the tiny CLIP, which has as many layers as the small one; without
    PREC. Of the six classes at most 4 are candidates of a step."""
    method = method_class(name)
    path = configs.ROOT / "trainers" / name / "tiny.yaml"
    section = yaml.safe_load(path.read_text(encoding="utf-8"))["TRAINER"][method.section().removeprefix("TRAINER.")]
    section.pop("PREC", None)
    if number := section.get("UPDATE_CLASS_NUM", defaults(method.Options).get("UPDATE_CLASS_NUM", 0)):
        section["UPDATE_CLASS_NUM"] = min(4, number)
    return section


def needs_images(name: str) -> bool:
    chosen = CfgNode(defaults(method_class(name).Options))
    chosen.merge_from_other_cfg(CfgNode(METHODS[name]))
    return method_class(name).needs(read_options(method_class(name).Options, chosen, name)).images


METHODS = {row.name: tiny_settings(row.name) for row in configs.methods().values() if row.learns}
TRAINING_FREE = {row.name: tiny_settings(row.name) for row in configs.methods().values() if row.training_free}
ZERO_SHOT = tuple(row.name for row in configs.methods().values() if row.zero_shot)
TEXT_ONLY = tuple(name for name in METHODS if not needs_images(name))
SAMPLING = tuple(name for name in METHODS if "UPDATE_CLASS_NUM" in defaults(method_class(name).Options))
Make = Callable[..., PromptTrainer]


class Swatch(Datum):
    """Stripes whose colours and period tell the class; the last part of the path shifts them."""

    def load(self) -> Image.Image:
        shift = int(self.impath.rsplit("/", 1)[1])
        kind = CLASSNAMES.index(self.classname)
        image = Image.new("RGB", (SIZE, SIZE), (40 * kind, 220 - 35 * kind, 90 + 25 * (kind % 3)))
        for x in range(shift, SIZE, 2 + kind):
            image.paste((250 - 40 * kind, 30 * kind, 120), (x, 0, x + 1, SIZE))
        return image


def swatches(split: str, count: int) -> list[Item]:
    return [Item(f"{split}/{c}/{i}", c, name) for c, name in enumerate(CLASSNAMES) for i in range(count)]


@DATASET_REGISTRY.register()
class Swatches(ImageDataset):
    """Four training, one validation and two test images a class."""

    template = "a swatch of {}."

    def __init__(self, cfg: CfgNode) -> None:
        split = Split(whole := swatches("train", 4), swatches("val", 1), swatches("test", 2))
        if cfg.DATASET.NUM_SHOTS >= 1:
            split = Split(*self.draw_fewshot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED), split.test)
        super().__init__(cfg, Path("Swatches"), split, whole)

    def _datum(self, item: Item) -> Datum:
        return Swatch(item.path, item.label, 0, item.classname)


def save_clip(folder: Path, name: str = "small", **changes: object) -> str:
    """A small random CLIP as a weights file; returns its path."""
    path = folder / f"{name}.safetensors"
    save_file(small_clip(**{"context_length": CONTEXT_LENGTH, **changes}).state_dict(), path)
    return str(path)


def every_class(method: str) -> Settings:
    """Settings with which a method that samples classes draws all of them, so that its steps can be compared."""
    return {"UPDATE_CLASS_NUM": len(CLASSNAMES) + 1} if METHODS[method].get("UPDATE_CLASS_NUM") else {}


def options(method: str, settings: Settings) -> list[object]:
    """``KEY VALUE`` words of a method's own section."""
    section = method_class(method).section()
    return [word for key, value in flatten_cfg(settings).items() for word in (f"{section}.{key}", value)]


def config(method: str, backbone: str, output: Path, *opts: object) -> CfgNode:
    """The configuration of a small run in fp32, with ``opts`` on top."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    words = {
        "OUTPUT_DIR": str(output),
        "SEED": 1,
        "USE_CUDA": False,
        "VERBOSE": False,
        "DATASET.NAME": "Swatches",
        "DATASET.ALL_AS_UNLABELED": True,
        "MODEL.BACKBONE.PATH": backbone,
        "INPUT.SIZE": (SIZE, SIZE),
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 8,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.02,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.MAX_EPOCH": 3,
        "TRAINER.NAME": method,
    }
    cfg.merge_from_list([word for pair in words.items() for word in pair])
    if settings := METHODS | TRAINING_FREE:
        cfg.merge_from_list(options(method, {"PREC": "fp32", **settings[method]}) if method in settings else [])
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg


def maker(backbone: str, output: Path) -> Make:
    """``make(method, settings of its section, *opts)`` builds a trainer and lets it begin: it can make steps."""

    def make(method: str, settings: Settings | None = None, *opts: object) -> PromptTrainer:
        trainer = build_trainer(config(method, backbone, output, *options(method, settings or {}), *opts))
        trainer.begin()
        return trainer

    return make


def batch(size: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, H, W) and labels in which classes repeat."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(size, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return image, torch.tensor([1, 3, 1, 0, 5, 2, 4])[:size]


def terms(trainer: PromptTrainer, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """The named terms of a batch's loss."""
    return trainer.model.method.loss(trainer.model, trainer.parse_batch_train({"img": image, "label": label}))


def losses(trainer: PromptTrainer, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Those that are minimised."""
    return {name: term for name, term in terms(trainer, image, label).items() if name.endswith("_loss")}


def learnable(trainer: PromptTrainer) -> dict[str, torch.nn.Parameter]:
    """The method's parameters by their keys in checkpoints."""
    method = trainer.model.method
    names = method.published_names()
    return {names.get(name, name): parameter for name, parameter in method.named_parameters()}


def randomise(trainer: PromptTrainer, scale: float = 0.3) -> PromptTrainer:
    """Learnable tensors of the size of activations, all different."""
    with torch.no_grad():
        for parameter in trainer.model.method.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return trainer


def in_double(trainer: PromptTrainer) -> PromptTrainer:
    """The whole trainer in fp64."""
    trainer.model.double().set_classnames(trainer.model.classnames)
    if teacher := getattr(trainer.model.method, "teacher", None):  # of the same CLIP
        teacher.classifier.set_classnames(teacher.classifier.classnames)
    return trainer


def summary(trainer: PromptTrainer, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Of one optimiser step in the middle of an epoch."""
    trainer.batch_idx, trainer.num_batches = 0, 2
    return trainer.forward_backward({"img": image, "label": label})


def step(trainer: PromptTrainer, image: Tensor, label: Tensor) -> float:
    """The loss before the step that it makes."""
    return float(summary(trainer, image, label)["loss"])


def descended(method: str) -> str:
    """The loss that steps make smaller: the sum of the terms; that of the labels for a gradient rule of one's own."""
    return "loss" if method_class(method).backward is Method.backward else "ce_loss"


def state(trainer: PromptTrainer) -> dict[str, Tensor]:
    """A copy of what a checkpoint would hold."""
    return {key: value.clone() for key, value in trainer.model.method.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """The same keys with the same numbers, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
