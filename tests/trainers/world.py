"""A data set of striped swatches, small random CLIPs as files, and trainers built on them in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dassl.config import CfgNode, get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.engine import TRAINER_REGISTRY, build_trainer
from datasets.base import ImageDataset
from datasets.splits import Item, Split
from tests.clip.small import SIZE, small_clip
from trainers import extend_cfg
from trainers.base import PromptTrainer
from trainers.teacher import build_teacher

from .plain import CONTEXT_LENGTH

CLASSNAMES = ["red", "dark_blue", "green", "striped_yellow_umbrella", "grey", "old_pink_house"]
# Settings of each learning method that fit the small CLIP.
METHODS = {
    "CoOp": {"N_CTX": 3},
    "CoCoOp": {"N_CTX": 2},
    "VPT": {"N_CTX_VISION": 3, "PROMPT_DEPTH_VISION": 2},
    "IVLP": {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 3},
    "MaPLe": {"N_CTX": 2, "PROMPT_DEPTH": 2},
    "POMP": {"N_CTX": 2, "UPDATE_CLASS_NUM": 4},
    "RPP": {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2},
}
TEXT_ONLY = ("CoOp", "CoCoOp", "POMP")
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
        split = Split(swatches("train", 4), swatches("val", 1), swatches("test", 2))
        if cfg.DATASET.NUM_SHOTS >= 1:
            split = Split(*self.draw_fewshot(split, cfg.DATASET.NUM_SHOTS, cfg.SEED), split.test)
        super().__init__(cfg, Path("Swatches"), split)

    def _datum(self, item: Item) -> Datum:
        return Swatch(item.path, item.label, 0, item.classname)


def save_clip(folder: Path, name: str = "small", **changes: object) -> str:
    """A small random CLIP as a weights file; returns its path."""
    path = folder / f"{name}.safetensors"
    save_file(small_clip(**{"context_length": CONTEXT_LENGTH, **changes}).state_dict(), path)
    return str(path)


def options(method: str, settings: dict[str, object]) -> list[object]:
    """``KEY VALUE`` words of a method's own section."""
    section = TRAINER_REGISTRY.get(method).section
    return [word for key, value in settings.items() for word in (f"TRAINER.{section}.{key}", value)]


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
    if method in METHODS:
        cfg.merge_from_list(options(method, {"PREC": "fp32", **METHODS[method]}))
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg


def maker(backbone: str, output: Path) -> Make:
    """``make(method, settings of its section, *opts)`` builds a trainer."""

    def make(method: str, settings: dict[str, object] | None = None, *opts: object) -> PromptTrainer:
        return build_trainer(config(method, backbone, output, *options(method, settings or {}), *opts))

    return make


def batch(size: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, H, W) and labels in which classes repeat."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(size, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return image, torch.tensor([1, 3, 1, 0, 5, 2, 4])[:size]


def learnable(trainer: PromptTrainer) -> dict[str, torch.nn.Parameter]:
    """The learner's parameters by their keys in checkpoints."""
    names = trainer.published_names()
    return {names.get(name, name): parameter for name, parameter in trainer.model.learner.named_parameters()}


def randomise(trainer: PromptTrainer, scale: float = 0.3) -> PromptTrainer:
    """Learnable tensors of the size of activations, all different."""
    with torch.no_grad():
        for parameter in trainer.model.learner.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return trainer


def in_double(trainer: PromptTrainer) -> PromptTrainer:
    """The whole trainer in fp64."""
    trainer.model.double().set_classnames(trainer.classnames)
    if hasattr(trainer, "teacher"):
        trainer.teacher = build_teacher(trainer, trainer.options.TEACHER)
    return trainer


def step(trainer: PromptTrainer, image: Tensor, label: Tensor) -> float:
    """One optimiser step in the middle of an epoch; the loss before it."""
    trainer.batch_idx, trainer.num_batches = 0, 2
    return float(trainer.forward_backward({"img": image, "label": label})["loss"])


def state(trainer: PromptTrainer) -> dict[str, Tensor]:
    """A copy of what a checkpoint would hold."""
    return {key: value.clone() for key, value in trainer.model.learner.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """The same keys with the same numbers, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
