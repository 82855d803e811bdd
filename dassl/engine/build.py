"""``TRAINER.NAME`` to a trainer."""

from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability, log

if TYPE_CHECKING:
    from dassl.engine.models import TrainerBase

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> "TrainerBase":
    """The trainer that ``cfg.TRAINER.NAME`` names; ``ValueError`` with the nearest name if there is none."""
    check_availability(cfg.TRAINER.NAME, TRAINER_REGISTRY.registered_names())
    if cfg.VERBOSE:
        log.info(f"Loading trainer: {cfg.TRAINER.NAME}")
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
