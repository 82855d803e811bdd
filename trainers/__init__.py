"""Methods, one file each. Importing a file registers its trainer; a new method adds its import line here."""

from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from . import cocoop, coop, ivlp, maple, pomp, rpp, vpt, zsclip

__all__ = ["add_method_options", "cocoop", "coop", "ivlp", "maple", "pomp", "rpp", "vpt", "zsclip"]


def add_method_options(cfg: CfgNode) -> None:
    """Give ``cfg.TRAINER`` a section with the defaults of every registered method that has options."""
    for name in TRAINER_REGISTRY.registered_names():
        method = TRAINER_REGISTRY.get(name)
        if section := getattr(method, "section", ""):
            cfg.TRAINER[section] = CfgNode(method.defaults)
