"""Learning rates as closed forms of the epoch.

A rate is a function of the base rate b and the epoch index e = 0, 1, ...; schedulers are stepped once per epoch. Their
state is one number, so resuming cannot drift.
"""

import bisect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from yacs.config import CfgNode

__all__ = [
    "AVAI_SCHEDS",
    "ConstantWarmupScheduler",
    "EpochScheduler",
    "LinearWarmupScheduler",
    "build_lr_scheduler",
    "cosine",
    "multi_step",
    "single_step",
]

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]

Rate = Callable[[float, int], float]


def single_step(step_size: int, gamma: float) -> Rate:
    """b * gamma^floor(e / step_size)"""
    return lambda base, epoch: base * gamma ** (epoch // step_size)


def multi_step(milestones: list[int], gamma: float) -> Rate:
    """b * gamma^(number of milestones <= e)"""
    milestones = sorted(milestones)
    return lambda base, epoch: base * gamma ** bisect.bisect_right(milestones, epoch)


def cosine(period: float, least: float = 0.0) -> Rate:
    """least + (b - least) * (1 + cos(pi e / period)) / 2"""
    return lambda base, epoch: least + (base - least) * (1 + math.cos(math.pi * epoch / period)) / 2


class EpochScheduler:
    """Sets every parameter group's learning rate to ``rate(its base rate, epoch)``; ``step`` once per epoch."""

    def __init__(self, optimizer: Optimizer, rate: Rate, last_epoch: int = -1) -> None:
        self.optimizer = optimizer
        self.rate = rate
        self.base_lrs = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def step(self) -> None:
        """Go on to the next epoch."""
        self._set_epoch(self.last_epoch + 1)

    def get_last_lr(self) -> list[float]:
        """The rates in force, one per parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the epoch; the schedule itself, and the base rates, are this object's own."""
        self._set_epoch(state["last_epoch"])

    def _set_epoch(self, epoch: int) -> None:
        self.last_epoch = epoch
        for group, base in zip(self.optimizer.param_groups, self.base_lrs):
            group["lr"] = self.rate(base, epoch)


class _BaseWarmupScheduler(EpochScheduler):
    """Another rate for the first ``warmup_epoch`` = W epochs, then the successor's.

    The successor starts at its own epoch 0 (lr(e) = s(e - W)); without ``recount`` it goes on from W, scaled so that
    epoch W runs at the base rate (lr(e) = b s(e) / s(W)).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        successor: "EpochScheduler | lr_scheduler.LRScheduler",
        warmup_epoch: int,
        warmup: Rate,
        last_epoch: int = -1,
        recount: bool = True,
    ) -> None:
        after = _rate_of(successor)

        def rate(base: float, epoch: int) -> float:
            if epoch < warmup_epoch:
                return warmup(base, epoch)
            if recount:
                return after(base, epoch - warmup_epoch)
            start = after(base, warmup_epoch)
            return base * after(base, epoch) / start if epoch > warmup_epoch and start else base

        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, rate, last_epoch)


class ConstantWarmupScheduler(_BaseWarmupScheduler):
    """lr(e) = ``cons_lr`` for e < W."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: "EpochScheduler | lr_scheduler.LRScheduler",
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
        recount: bool = True,
    ) -> None:
        super().__init__(optimizer, successor, warmup_epoch, lambda base, epoch: cons_lr, last_epoch, recount)


class LinearWarmupScheduler(_BaseWarmupScheduler):
    """lr(0) = ``min_lr``, lr(e) = b e / W for 1 <= e < W."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: "EpochScheduler | lr_scheduler.LRScheduler",
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
        recount: bool = True,
    ) -> None:
        def warmup(base: float, epoch: int) -> float:
            return min_lr if epoch == 0 else base * epoch / warmup_epoch

        super().__init__(optimizer, successor, warmup_epoch, warmup, last_epoch, recount)


def _rate_of(successor: "EpochScheduler | lr_scheduler.LRScheduler") -> Rate:
    """The closed form of our own schedulers and of torch's counterparts."""
    match successor:
        case EpochScheduler():
            return successor.rate
        case lr_scheduler.StepLR():
            return single_step(successor.step_size, successor.gamma)
        case lr_scheduler.MultiStepLR():
            return multi_step(list(successor.milestones.elements()), successor.gamma)
        case lr_scheduler.CosineAnnealingLR():
            return cosine(successor.T_max, successor.eta_min)
    raise TypeError(f"a warm-up cannot be followed by a {type(successor).__name__}: its closed form is not known")


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode, steps: int = 1) -> EpochScheduler:
    """The schedule of ``cfg.OPTIM`` with its warm-up. With ``SCHEDULE_UNIT`` step an epoch has ``steps`` of its units.

    ``ValueError`` for an unknown schedule, warm-up or step size; ``TypeError`` for multi_step without a list.
    """
    if optim_cfg.LR_SCHEDULER not in AVAI_SCHEDS:
        raise ValueError(f"scheduler must be one of {AVAI_SCHEDS}, but got {optim_cfg.LR_SCHEDULER}")
    if optim_cfg.SCHEDULE_UNIT not in ("epoch", "step"):
        raise ValueError(f'OPTIM.SCHEDULE_UNIT must be "epoch" or "step", but got "{optim_cfg.SCHEDULE_UNIT}"')
    if optim_cfg.SCHEDULE_UNIT == "step":
        optim_cfg = _in_steps(optim_cfg, steps)
    scheduler = EpochScheduler(optimizer, _plain_rate(optim_cfg))
    epochs = optim_cfg.WARMUP_EPOCH
    if epochs <= 0:
        return scheduler
    recount = optim_cfg.WARMUP_RECOUNT
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_CONS_LR, recount=recount)
    if optim_cfg.WARMUP_TYPE == "linear":
        return LinearWarmupScheduler(optimizer, scheduler, epochs, optim_cfg.WARMUP_MIN_LR, recount=recount)
    raise ValueError(f'OPTIM.WARMUP_TYPE must be "constant" or "linear", but got "{optim_cfg.WARMUP_TYPE}"')


def _in_steps(cfg: CfgNode, steps: int) -> CfgNode:
    """The same schedule with every number of epochs as a number of steps."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MAX_EPOCH, cfg.WARMUP_EPOCH = cfg.MAX_EPOCH * steps, cfg.WARMUP_EPOCH * steps
    sizes = cfg.STEPSIZE
    cfg.STEPSIZE = tuple(size * steps for size in sizes) if isinstance(sizes, (list, tuple)) else sizes * steps
    return cfg


def _plain_rate(cfg: CfgNode) -> Rate:
    if cfg.LR_SCHEDULER == "cosine":
        return cosine(max(cfg.MAX_EPOCH, 1))
    if cfg.LR_SCHEDULER == "multi_step":
        if not isinstance(cfg.STEPSIZE, (list, tuple)):
            raise TypeError(f"OPTIM.STEPSIZE must be a list for multi_step, but got {cfg.STEPSIZE!r}")
        return multi_step(list(cfg.STEPSIZE), cfg.GAMMA)
    step_size = cfg.STEPSIZE[-1] if isinstance(cfg.STEPSIZE, (list, tuple)) else cfg.STEPSIZE
    if not isinstance(step_size, int):
        raise ValueError(f"OPTIM.STEPSIZE must hold whole epochs, but got {step_size!r}")
    return single_step(step_size if step_size > 0 else max(cfg.MAX_EPOCH, 1), cfg.GAMMA)
