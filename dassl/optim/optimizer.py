"""``cfg.OPTIM`` to an optimiser."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from yacs.config import CfgNode

__all__ = ["AVAI_OPTIMS", "build_optimizer"]

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: CfgNode, param_groups: Iterable[Any] | None = None
) -> Optimizer:
    """An optimiser of ``param_groups`` if given, else of ``model``: a module, or parameters, or parameter groups.

    ``STAGED_LR`` needs a module: its direct children named in ``NEW_LAYERS`` learn at ``LR``, all others at
    ``LR * BASE_LR_MULT``. On a GPU SGD, Adam and AdamW run fused: one kernel, and no read of amp's overflow flag.
    ``ValueError`` for an unknown name, ``TypeError`` for staged rates without a module.
    """
    if optim_cfg.NAME not in AVAI_OPTIMS:
        raise ValueError(f"optim must be one of {AVAI_OPTIMS}, but got {optim_cfg.NAME}")
    if param_groups is not None:
        if optim_cfg.STAGED_LR:
            warnings.warn("OPTIM.STAGED_LR is ignored, because param_groups are given", stacklevel=2)
        params: Any = param_groups
    elif optim_cfg.STAGED_LR:
        params = _staged_groups(model, optim_cfg)
    else:
        params = model.parameters() if isinstance(model, nn.Module) else model
    return _create(list(params), optim_cfg)


def _create(params: list[Any], cfg: CfgNode) -> Optimizer:
    shared = {"lr": cfg.LR, "weight_decay": cfg.WEIGHT_DECAY}
    tensors = [param for entry in params for param in (entry["params"] if isinstance(entry, dict) else [entry])]
    fused = True if tensors and all(param.is_cuda for param in tensors) else None  # None: PyTorch's choice
    adam = {"betas": (cfg.ADAM_BETA1, cfg.ADAM_BETA2), "eps": cfg.ADAM_EPS, **shared}
    match cfg.NAME:
        case "sgd":
            return torch.optim.SGD(
                params,
                momentum=cfg.MOMENTUM,
                dampening=cfg.SGD_DAMPNING,
                nesterov=cfg.SGD_NESTEROV,
                fused=fused,
                **shared,
            )
        case "rmsprop":
            return torch.optim.RMSprop(params, momentum=cfg.MOMENTUM, alpha=cfg.RMSPROP_ALPHA, **shared)
        case "radam":
            return torch.optim.RAdam(params, **adam)
        case "adamw":
            return torch.optim.AdamW(params, fused=fused, **adam)
        case _:
            return torch.optim.Adam(params, amsgrad=cfg.NAME == "amsgrad", fused=fused, **adam)


def _staged_groups(model: Any, cfg: CfgNode) -> list[dict[str, Any]]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"OPTIM.STAGED_LR needs an nn.Module, but got {type(model).__name__}")
    if isinstance(model, nn.DataParallel):
        model = model.module
    new_layers = [cfg.NEW_LAYERS] if isinstance(cfg.NEW_LAYERS, str) else list(cfg.NEW_LAYERS)
    children = dict(model.named_children())
    if unknown := [name for name in new_layers if name not in children]:
        raise ValueError(f"OPTIM.NEW_LAYERS: {unknown} are not among the model's children {list(children)}")
    old = [param for name, module in children.items() if name not in new_layers for param in module.parameters()]
    new = [param for name in new_layers for param in children[name].parameters()]
    return [{"params": old, "lr": cfg.LR * cfg.BASE_LR_MULT}, {"params": new}]
