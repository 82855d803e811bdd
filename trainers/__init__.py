"""Methods, one file each; ``configs/methods.yaml`` is their table. ``from trainers import MaPLe, load_classifier``."""

import os
import re
import sys
from importlib import import_module
from types import ModuleType

from clip.clip import PIXEL_MEAN, PIXEL_STD
from configs import methods
from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer
from .load import load_classifier
from .method import Method
from .options import defaults
from .prompted_clip import PromptedCLIP

__all__ = ["Method", "PromptTrainer", "PromptedCLIP", "extend_cfg", "import_methods", "load_classifier", "register"]


def register(method: type[Method]) -> type[PromptTrainer]:
    """Make ``--trainer <name of the class>`` train this method; returns the trainer."""
    name, module = method.__name__, method.__module__
    known = TRAINER_REGISTRY.get(name) if name in TRAINER_REGISTRY else None
    if known and known.__module__ != module:  # the same again is fine, as in a notebook
        raise ValueError(f"{module} defines {name}, but so does {known.__module__}: rename the class")
    trainer = type(name, (PromptTrainer,), {"method": method, "__doc__": method.__doc__, "__module__": module})
    TRAINER_REGISTRY.register(trainer, force=known is not None)
    return trainer


def import_methods(module: str) -> ModuleType:
    """Import a module, such as ``my_package.my_method``, and register the methods that it, or a part of it, defines.

    It may lie in the current folder. ValueError if it is not there, lacks something, or defines no method.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", module) or module.endswith(".py"):
        raise ValueError(f"Cannot import {module!r}: give a module's name, such as my_package.my_method")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # behind a script's own folder, which has the packages that modules import
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if not f"{module}.".startswith(f"{error.name}."):
            reason = f"it needs {error.name}, which is not installed"
        elif top in sys.modules:
            reason = f"it is no part of {sys.modules[top]}"
        else:
            reason = f"there is none in {here} or on Python's path"
        raise ValueError(f"Cannot import {module}: {reason}") from error
    own = [
        one
        for one in vars(imported).values()
        if isinstance(one, type) and issubclass(one, Method) and f"{one.__module__}.".startswith(f"{module}.")
    ]
    if not own:
        raise ValueError(f"{module} ({imported.__file__}) defines no method, a subclass of trainers.Method")
    for method in own:
        register(method)
    return imported


def extend_cfg(cfg: CfgNode) -> None:
    """Make the engine's defaults ours: CLIP's image input, and a section ``cfg.TRAINER.<SECTION>`` for every method."""
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    for name in TRAINER_REGISTRY.registered_names():
        trainer = TRAINER_REGISTRY.get(name)
        if method := getattr(trainer, "method", None):
            cfg.TRAINER[method.section().removeprefix("TRAINER.")] = CfgNode(defaults(method.Options))


for row in methods().values():
    globals()[row.name] = getattr(import_module(f"trainers.{row.file}"), row.name)
    register(globals()[row.name])
