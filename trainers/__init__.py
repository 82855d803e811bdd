"""Methods, one file each. Importing a file registers its trainer; a new method adds its name to the import."""

from clip.clip import PIXEL_MEAN, PIXEL_STD
from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from . import cocoop, coop, ivlp, maple, pomp, rpp, vpt, zsclip

__all__ = ["cocoop", "coop", "extend_cfg", "ivlp", "maple", "pomp", "rpp", "vpt", "zsclip"]


def extend_cfg(cfg: CfgNode) -> None:
    """Make the engine's defaults ours: CLIP's image input, and a section ``cfg.TRAINER.<SECTION>`` for every method."""
    cfg.INPUT.INTERPOLATION = "bicubic"
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    for name in TRAINER_REGISTRY.registered_names():
        method = TRAINER_REGISTRY.get(name)
        if section := getattr(method, "section", ""):
            cfg.TRAINER[section] = CfgNode(method.defaults)
