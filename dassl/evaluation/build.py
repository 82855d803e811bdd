"""``TEST.EVALUATOR`` to an evaluator."""

from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from dassl.utils import Registry, check_availability, log

if TYPE_CHECKING:
    from dassl.evaluation.evaluator import EvaluatorBase

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> "EvaluatorBase":
    """The evaluator that ``cfg.TEST.EVALUATOR`` names, constructed with ``cfg`` and the keyword arguments."""
    check_availability(cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names())
    if cfg.VERBOSE:
        log.info(f"Loading evaluator: {cfg.TEST.EVALUATOR}")
    return EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
