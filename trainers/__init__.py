"""Methods, one file each; ``configs/methods.yaml`` is their table. ``from trainers import MaPLe, load_classifier``."""

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
    trainer = type(method.__name__, (PromptTrainer,), {"method": method, "__doc__": method.__doc__})
    TRAINER_REGISTRY.register(trainer, force=method.__name__ in TRAINER_REGISTRY)
    return trainer


def import_methods(module: str) -> ModuleType:
    """Import a module, such as ``my_package.my_method``, and register the methods that it defines."""
    imported = import_module(module)
    for one in vars(imported).values():
        if isinstance(one, type) and issubclass(one, Method) and one.__module__ == module:
            register(one)
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
