"""What only trainers, data sets and YAML files written for other engines of this interface need.

Nothing of ours reads it. The names are imported from where their users look for them: ``dassl.utils``,
``dassl.config``, ``dassl.metrics``, ``dassl.engine``.
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # torch takes seconds: it is imported by what uses it
    from torch import Tensor, nn
    from yacs.config import CfgNode

# Config ---------------------------------------------------------------------------------------------------------------

# Leaves that exist so that YAML files which name them still merge.
UNREAD = {
    "DATASET.NUM_LABELED": -1,
    "DATASET.VAL_PERCENT": 0.1,
    "DATASET.STL10_FOLD": -1,
    "DATASET.CIFAR_C_TYPE": "",
    "DATASET.CIFAR_C_LEVEL": 1,
    "MODEL.INIT_WEIGHTS": "",
    "MODEL.BACKBONE.PRETRAINED": True,
    "MODEL.HEAD.NAME": "",
    "MODEL.HEAD.HIDDEN_LAYERS": (),
    "MODEL.HEAD.ACTIVATION": "relu",
    "MODEL.HEAD.BN": True,
    "MODEL.HEAD.DROPOUT": 0.0,
    "TRAIN.COUNT_ITER": "train_x",
    "TRAINER.MCD.N_STEP_F": 4,
    "TRAINER.MME.LMDA": 0.1,
    "TRAINER.CDAC.CLASS_LR_MULTI": 10,
    "TRAINER.CDAC.RAMPUP_COEF": 30,
    "TRAINER.CDAC.RAMPUP_ITRS": 1000,
    "TRAINER.CDAC.TOPK_MATCH": 5,
    "TRAINER.CDAC.P_THRESH": 0.95,
    "TRAINER.CDAC.STRONG_TRANSFORMS": (),
    "TRAINER.SE.EMA_ALPHA": 0.999,
    "TRAINER.SE.CONF_THRE": 0.95,
    "TRAINER.SE.RAMPUP": 300,
    "TRAINER.M3SDA.LMDA": 0.5,
    "TRAINER.M3SDA.N_STEP_F": 4,
    "TRAINER.DAEL.WEIGHT_U": 0.5,
    "TRAINER.DAEL.CONF_THRE": 0.95,
    "TRAINER.DAEL.STRONG_TRANSFORMS": (),
    "TRAINER.CROSSGRAD.EPS_F": 1.0,
    "TRAINER.CROSSGRAD.EPS_D": 1.0,
    "TRAINER.CROSSGRAD.ALPHA_F": 0.5,
    "TRAINER.CROSSGRAD.ALPHA_D": 0.5,
    "TRAINER.DDAIG.G_ARCH": "",
    "TRAINER.DDAIG.LMDA": 0.3,
    "TRAINER.DDAIG.CLAMP": False,
    "TRAINER.DDAIG.CLAMP_MIN": -1.0,
    "TRAINER.DDAIG.CLAMP_MAX": 1.0,
    "TRAINER.DDAIG.WARMUP": 0,
    "TRAINER.DDAIG.ALPHA": 0.5,
    "TRAINER.DAELDG.WEIGHT_U": 0.5,
    "TRAINER.DAELDG.CONF_THRE": 0.95,
    "TRAINER.DAELDG.STRONG_TRANSFORMS": (),
    "TRAINER.DOMAINMIX.TYPE": "crossdomain",
    "TRAINER.DOMAINMIX.ALPHA": 1.0,
    "TRAINER.DOMAINMIX.BETA": 1.0,
    "TRAINER.ENTMIN.LMDA": 1e-3,
    "TRAINER.MEANTEACHER.WEIGHT_U": 1.0,
    "TRAINER.MEANTEACHER.EMA_ALPHA": 0.999,
    "TRAINER.MEANTEACHER.RAMPUP": 5,
    "TRAINER.MIXMATCH.WEIGHT_U": 100.0,
    "TRAINER.MIXMATCH.TEMP": 2.0,
    "TRAINER.MIXMATCH.MIXUP_BETA": 0.75,
    "TRAINER.MIXMATCH.RAMPUP": 20000,
    "TRAINER.FIXMATCH.WEIGHT_U": 1.0,
    "TRAINER.FIXMATCH.CONF_THRE": 0.95,
    "TRAINER.FIXMATCH.STRONG_TRANSFORMS": (),
}


def clean_cfg(cfg: "CfgNode", trainer: str) -> None:
    """Drop the sections of ``cfg.TRAINER`` that belong to other trainers."""
    for key in set(cfg.TRAINER) - {"NAME", trainer.upper()}:
        cfg.TRAINER.pop(key)


# Trainers -------------------------------------------------------------------------------------------------------------

_LEFT_OUT = {
    "TrainerXU": "training with unlabelled data",
    "SimpleNet": "the CNN classifier",
    **dict.fromkeys(
        ["SE", "MCD", "MME", "ADDA", "CDAC", "DAEL", "DANN", "AdaBN", "M3SDA", "SourceOnly"], "domain adaptation"
    ),
    **dict.fromkeys(["DDAIG", "DAELDG", "Vanilla", "CrossGrad", "DomainMix"], "domain generalisation of CNNs"),
    **dict.fromkeys(["EntMin", "FixMatch", "MixMatch", "MeanTeacher", "SupBaseline"], "semi-supervised learning"),
}


def left_out(module: str, name: str) -> NoReturn:
    """The error for a name that a module does not have: why, if it was left out on purpose."""
    if name in _LEFT_OUT:
        raise ImportError(
            f"{name} ({_LEFT_OUT[name]}) is not part of this engine, which covers labelled prompt learning only"
        )
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


# Models ---------------------------------------------------------------------------------------------------------------


def load_pretrained_weights(model: "nn.Module", weight_path: str) -> None:
    """Copy those tensors of a file into ``model`` whose name and shape match; say what was left out."""
    from dassl.checkpoints import load_checkpoint, without_module
    from dassl.utils import log, reading

    checkpoint = load_checkpoint(weight_path)
    with reading(weight_path, "a file of weights"):
        weights = without_module(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    matched = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not matched:
        warnings.warn(f"Cannot load {weight_path} (check the key names manually)", stacklevel=2)
        return
    model.load_state_dict({**own, **matched})
    log.info(f"Successfully loaded pretrained weights from {weight_path}")
    if discarded := [key for key in weights if key not in matched]:
        log.info(f"Layers discarded due to unmatched keys or size: {discarded}")


def count_num_param(model: "nn.Module | None" = None, params: Iterable[Any] | None = None) -> int:
    """Number of elements of all parameters of ``model``, or of ``params`` (parameters or optimiser groups)."""
    if model is not None:
        return sum(param.numel() for param in model.parameters())
    if params is None:
        raise ValueError("count_num_param needs a model or params")
    groups = (entry["params"] if isinstance(entry, dict) else [entry] for entry in params)
    return sum(param.numel() for group in groups for param in (group if isinstance(group, list) else [group]))


def open_all_layers(model: "nn.Module") -> None:
    """Make every parameter trainable, in training mode."""
    model.train().requires_grad_(True)


def open_specified_layers(model: "nn.Module", open_layers: str | list[str]) -> None:
    """Make the named direct children trainable, and freeze all others in evaluation mode."""
    names = [open_layers] if isinstance(open_layers, str) else list(open_layers)
    children = dict(model.named_children())
    if unknown := [name for name in names if name not in children]:
        raise ValueError(f"{unknown} are not among the model's children {list(children)}")
    for name, module in children.items():
        module.train(name in names).requires_grad_(name in names)


def init_network_weights(model: "nn.Module", init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise linear and convolution weights (normal, xavier, kaiming or orthogonal; zero biases) and norms."""
    from torch import nn

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


# Files ----------------------------------------------------------------------------------------------------------------


def check_isfile(fpath: str) -> bool:
    """Whether ``fpath`` is a file; warns if not."""
    found = os.path.isfile(fpath)
    if not found:
        warnings.warn(f'No file found at "{fpath}"', stacklevel=2)
    return found


def listdir_nohidden(path: str, sort: bool = False) -> list[str]:
    """Names in a folder that do not start with a dot; in file-system order unless ``sort``."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


# Metrics --------------------------------------------------------------------------------------------------------------


def compute_accuracy(output: "Tensor | Sequence[Tensor]", target: "Tensor", topk: Sequence[int] = (1,)) -> list[Any]:
    """For every k, the percentage of images whose label is among the k best scores, as a tensor of shape (1,).

    output: (B, C) scores, or a sequence whose first element they are. target: (B,) labels.
    """
    scores = output[0] if isinstance(output, (tuple, list)) else output
    best = scores.topk(min(max(topk), scores.shape[1]), dim=1).indices
    hits = best == target.view(-1, 1)
    return [hits[:, :k].any(dim=1).float().mean().mul(100).view(1) for k in topk]


def compute_distance_matrix(first: "Tensor", second: "Tensor", metric: str = "euclidean") -> "Tensor":
    """(M, N) squared Euclidean or cosine distances between the rows of (M, D) and (N, D)."""
    metrics = {"euclidean": euclidean_squared_distance, "cosine": cosine_distance}
    if metric not in metrics:
        raise ValueError(f"metric must be one of {list(metrics)}, but got {metric!r}")
    return metrics[metric](first, second)


def euclidean_squared_distance(first: "Tensor", second: "Tensor") -> "Tensor":
    """(M, N) squared distances |a|^2 + |b|^2 - 2 a.b"""
    squares = first.pow(2).sum(1, keepdim=True) + second.pow(2).sum(1)
    return squares.addmm(first, second.t(), beta=1, alpha=-2)


def cosine_distance(first: "Tensor", second: "Tensor") -> "Tensor":
    """(M, N) values of 1 - cos(a, b)"""
    from torch.nn.functional import normalize

    return 1 - normalize(first, dim=1) @ normalize(second, dim=1).t()
