"""Prompts in files: the field's key names, and loading that says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from clip.weights import misfits
from dassl.checkpoints import find_checkpoint, load_checkpoint
from dassl.utils import log, reading

if TYPE_CHECKING:
    from .prompted_clip import PromptedCLIP

# What the family's checkpoints hold besides prompts: buffers that depend on the class names, and the frozen CLIP.
CLASS_BUFFERS = ("token_prefix", "token_suffix")
FROZEN_PREFIXES = ("image_encoder.", "text_encoder.", "logit_scale", "prompt_learner.ZS_image_encoder.")


def load_prompts(classifier: PromptedCLIP, path: str | Path, epoch: int | None = None) -> int:
    """Load a method's tensors from a checkpoint file, or from the one of a run's folder that ``find_checkpoint`` takes;
    returns the number of epochs that it was trained for. They may be of another method that this one can start from.
    ValueError naming what does not fit."""
    method = classifier.method
    path = find_checkpoint(str(path), folder_in(Path(path), method.folder), epoch)
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds no state dict (names with tensors), but a {type(checkpoint).__name__}")
    with reading(path, "a checkpoint of prompts"):
        weights = prompts_only(checkpoint.get("state_dict", checkpoint), method)
        if strange := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
            raise TypeError(f"{strange[0]} is no tensor")
    try:
        weights = method.adopt(weights)
    except ValueError as error:
        raise ValueError(f"{type(method).__name__} cannot start from {path}: {error}") from error
    load_exactly(method, weights, path)
    classifier.train(classifier.training)  # forgets the class features of other prompts
    trained_on = checkpoint.get("trained_on")
    classifier.trained_on = tuple(trained_on) if trained_on else None
    epochs = checkpoint.get("epoch", 0)
    log.info(f'Loading weights to {method.folder} from "{path}" (epoch = {epochs})')
    return epochs


def folder_in(run: Path, own: str) -> str:
    """A method's own folder in that of a run, else the folder of the only method that has left a checkpoint there."""
    others = {file.parent.name for file in run.glob("*/model*.pth.tar*")}
    return own if (run / own).is_dir() or len(others) != 1 else others.pop()


def prompts_only(state: Mapping[str, Tensor], method: nn.Module) -> dict[str, Tensor]:
    """A checkpoint's entries without class-dependent buffers and without the frozen CLIP of the family's files."""
    own = method.state_dict()
    state = {key.removeprefix("module."): value for key, value in state.items()}
    return {
        key: value
        for key, value in state.items()
        if key in own or not (key.endswith(CLASS_BUFFERS) or (key.startswith(FROZEN_PREFIXES) and ".VPT" not in key))
    }


def load_exactly(method: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Load every tensor of the method; ValueError naming keys that are missing, surplus or of another shape."""
    if found := misfits(method.state_dict(), weights):
        raise ValueError(f"The checkpoint {path} does not fit this method and its settings ({found})")
    method.load_state_dict({key: value.float() for key, value in weights.items()})
