"""Checkpoints as the field's authors distribute them: class-dependent buffers, the frozen CLIP, pickled objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trainers import PromptTrainer


class Scheduler:
    """An object that only its own program can unpickle; like the published ones it holds the optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.last_epoch = optimizer, 5


def frozen_clip(trainer: PromptTrainer) -> dict[str, Tensor]:
    """The frozen entries of a whole-model checkpoint; the token embedding is not among them."""
    weights = trainer.model.clip.state_dict()
    image = {key.replace("visual.", "image_encoder."): value for key, value in weights.items() if "visual." in key}
    text = {
        f"text_encoder.{key}": value
        for key, value in weights.items()
        if key.startswith(("transformer.", "positional_embedding", "ln_final.", "text_projection"))
    }
    return {"logit_scale": weights["logit_scale"], **image, **text}


def class_buffers(trainer: PromptTrainer, classes: int = 100) -> dict[str, Tensor]:
    """Token buffers of another class list, by the names that the method's files use."""
    method, width = type(trainer).__name__, trainer.model.clip.transformer.width
    if method == "MMA":
        return {
            "token_embedding": torch.zeros(classes, 77, width),
            "tokenized_prompts": torch.zeros(classes, 77).long(),
        }
    names = {"VPT": [], "CoOp": [""], "CoCoOp": [""], "KgCoOp": [""], "POMP": ["train_", "test_"]}.get(
        method, ["prompt_learner."]
    )
    length = trainer.model.method.context.length
    shapes = {"token_prefix": (classes, 1, width), "token_suffix": (classes, 76 - length, width)}
    return {name + key: torch.zeros(shape) for name in names for key, shape in shapes.items()}


def write_checkpoint(folder: Path, trainer: PromptTrainer, state: Mapping[str, Tensor], epoch: int) -> str:
    """Write ``<folder>/<registered name>/model.pth.tar-<epoch>`` in the layout of the method's authors."""
    whole = type(trainer).__name__ not in ("CoOp", "CoCoOp", "KgCoOp", "TCP", "POMP", "RPP", "CLIPLoRA", "MMA")
    names = trainer.model.method.published_names()
    saved = trainer.model.method.state_dict()  # not what is made anew from the classes
    buffers = {names.get(key, key): value for key, value in trainer.model.method.named_buffers()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
    content = {
        "state_dict": {
            **{name: value for name, value in buffers.items() if name in saved},
            **state,
            **class_buffers(trainer),
            **(frozen_clip(trainer) if whole else {}),
        },
        "epoch": epoch,
        "optimizer": optimizer,
        "scheduler": Scheduler(optimizer),
        "val_result": None,
    }
    target = folder / trainer.model.method.folder
    target.mkdir(parents=True, exist_ok=True)
    torch.save(content, target / f"model.pth.tar-{epoch}")
    return str(folder)
