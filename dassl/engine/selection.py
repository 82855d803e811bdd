"""Which state of a run is tested in the end: the last one, or the best on validation images (``best_val``)."""

from collections.abc import Sequence
from typing import Any

from yacs.config import CfgNode

from dassl.utils import log

__all__ = ["Selection"]

FEW = 50_000


class Selection:
    """When a run looks at its validation images: after every so many epochs and steps, and after the last epoch."""

    def __init__(self, cfg: CfgNode) -> None:
        self.name, self.final = cfg.DATASET.NAME, cfg.TEST.FINAL_MODEL
        self.epochs, self.steps, self.last = cfg.TEST.SELECT_EPOCHS, cfg.TEST.SELECT_STEPS, cfg.OPTIM.MAX_EPOCH
        self.is_on = self.final == "best_val" and not cfg.TEST.NO_TEST

    def check(self, val_loader: Any, dataset: Any = None) -> None:
        """``ValueError`` for a selection that would not select on a validation set; val_loader: None if it is none."""
        if self.final not in ("last_step", "best_val"):
            raise ValueError(f'TEST.FINAL_MODEL must be "last_step" or "best_val", but got "{self.final}"')
        if self.steps and not self.is_on:
            raise ValueError("TEST.SELECT_STEPS needs TEST.FINAL_MODEL best_val, and no TEST.NO_TEST")
        if self.is_on and val_loader is None:
            raise ValueError(
                f"TEST.FINAL_MODEL best_val needs validation images, but {self.name} has none: use last_step"
            )
        if self.is_on and dataset is not None and _are_among(dataset.val, dataset.test):
            log.info("Note: the validation images are test images, so best_val selects on the test set")

    def after_epoch(self, done: int) -> bool:
        """Whether to look when ``done`` epochs are."""
        return self.is_on and (done == self.last or (self.epochs > 0 and done % self.epochs == 0))

    def after_step(self, epoch: int, done: int, steps: int) -> bool:
        """Whether to look when ``done`` of the ``steps`` of epoch ``epoch`` (from 0) are, and not at its end anyway."""
        if not (self.is_on and self.steps) or (done == steps and self.after_epoch(epoch + 1)):
            return False
        return (epoch * steps + done) % self.steps == 0


def _are_among(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether the images of one list are all in the other. Of long lists a thousand places are compared, and only with
    the same places: to name the half million images of ImageNet-21K takes ten seconds."""
    if len(others) > FEW:
        places = range(0, len(some), max(1, len(some) // 1000))
        return len(some) == len(others) and all(some[at].impath == others[at].impath for at in places)
    return {item.impath for item in some} <= {item.impath for item in others}
