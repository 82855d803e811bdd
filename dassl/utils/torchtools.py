"""Checkpoints and parameters."""

import io
import os
import shutil
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from dassl.utils.safe_load import check_archive, safe_load
from dassl.utils.tools import atomic_write, read_text, reading, tolist_if_not

__all__ = [
    "count_num_param",
    "init_network_weights",
    "load_checkpoint",
    "load_pretrained_weights",
    "open_all_layers",
    "open_specified_layers",
    "restore",
    "resume_from_checkpoint",
    "save_checkpoint",
    "save_torch",
]


def save_torch(obj: Any, path: str) -> None:
    """``torch.save``, atomically. A full disk is an ``OSError`` that leaves the previous file as it was."""
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> str:
    """Write ``state`` and the text file ``checkpoint`` that points to it; returns the path.

    ``state`` needs the keys ``state_dict`` and ``epoch`` (finished epochs). The file is ``model_name``, else
    ``model.pth.tar-<epoch>``; with ``is_best`` a copy is named ``model-best.pth.tar``.
    """
    if remove_module_from_keys:
        state["state_dict"] = _without_module(state["state_dict"])
    name = model_name or f"model.pth.tar-{state['epoch']}"
    path = os.path.join(save_dir, name)
    save_torch(state, path)
    print(f"Checkpoint saved to {path}")
    with atomic_write(os.path.join(save_dir, "checkpoint"), "w") as file:
        file.write(f"{name}\n")
    if is_best:
        best = os.path.join(save_dir, "model-best.pth.tar")
        with open(path, "rb") as source, atomic_write(best) as target:
            shutil.copyfileobj(source, target)
        print(f'Best checkpoint saved to "{best}"')
    return path


def load_checkpoint(fpath: str) -> dict[str, Any]:
    """The content of a checkpoint on the CPU; nothing in the file is executed (see ``safe_load``).

    Raises ``ValueError`` (``None``, truncated, not a checkpoint) or ``FileNotFoundError``.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise FileNotFoundError(f'File is not found at "{fpath}"')
    check_archive(fpath)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: such files go the other way
            return torch.load(fpath, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can fail in any way
        return safe_load(fpath)  # older files; or the reason why this one cannot be read


def resume_from_checkpoint(fdir: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None) -> int:
    """Restore model, optimiser and scheduler from the file that ``<fdir>/checkpoint`` names; returns its epoch."""
    path = os.path.join(fdir, read_text(os.path.join(fdir, "checkpoint")).partition("\n")[0].strip())
    print(f'Loading checkpoint from "{path}"')
    return restore(load_checkpoint(path), model, optimizer, scheduler, path)


def restore(
    checkpoint: dict[str, Any], model: nn.Module, optimizer: Any = None, scheduler: Any = None, path: str = "checkpoint"
) -> int:
    """Put a checkpoint's state into the given objects, strictly; returns the number of finished epochs.

    ``ValueError`` that names ``path`` if the checkpoint belongs to another model, or is none.
    """
    with reading(path, "a checkpoint of this model", "resume from another one, or start in a new folder"):
        if not isinstance(checkpoint["epoch"], int):
            raise TypeError(f"epoch is {checkpoint['epoch']!r}")
        model.load_state_dict(checkpoint["state_dict"])
        print("Loaded model weights")
        for name, target in (("optimizer", optimizer), ("scheduler", scheduler)):
            if target is not None and checkpoint.get(name) is not None:
                target.load_state_dict(checkpoint[name])
                print(f"Loaded {name}")
    print(f"Previous epoch: {checkpoint['epoch']}")
    return checkpoint["epoch"]


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Copy those tensors of a file into ``model`` whose name and shape match; say what was left out."""
    checkpoint = load_checkpoint(weight_path)
    with reading(weight_path, "a file of weights"):
        weights = _without_module(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    matched = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not matched:
        warnings.warn(f"Cannot load {weight_path} (check the key names manually)", stacklevel=2)
        return
    model.load_state_dict({**own, **matched})
    print(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded := [key for key in weights if key not in matched]:
        print(f"Layers discarded due to unmatched keys or size: {discarded}")


def _without_module(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def count_num_param(model: nn.Module | None = None, params: Iterable[Any] | None = None) -> int:
    """Number of elements of all parameters of ``model``, or of ``params`` (parameters or optimiser groups)."""
    if model is not None:
        return sum(param.numel() for param in model.parameters())
    if params is None:
        raise ValueError("count_num_param needs a model or params")
    return sum(
        sum(param.numel() for param in tolist_if_not(entry["params"])) if isinstance(entry, dict) else entry.numel()
        for entry in params
    )


def open_all_layers(model: nn.Module) -> None:
    """Make every parameter trainable, in training mode."""
    model.train().requires_grad_(True)


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Make the named direct children trainable, and freeze all others in evaluation mode."""
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = dict(model.named_children())
    if unknown := [name for name in names if name not in children]:
        raise ValueError(f"{unknown} are not among the model's children {list(children)}")
    for name, module in children.items():
        module.train(name in names).requires_grad_(name in names)


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise linear and convolution weights (normal, xavier, kaiming or orthogonal; zero biases) and norms."""
    initialisers = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in initialisers:
        raise ValueError(f"init_type must be one of {list(initialisers)}, but got {init_type!r}")
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            initialisers[init_type](module.weight)
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d)) and module.weight is not None:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
