"""The models of a run by name, each with its optimiser, schedule and checkpoints; the curves of a run."""

import os
from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dassl.checkpoints import (
    BEST,
    check_state,
    copy_file,
    find_checkpoint,
    newest_state,
    read_states,
    remove_states,
    restore,
    save_state,
)
from dassl.optim.lr_scheduler import EpochScheduler
from dassl.ranks import current
from dassl.utils import load_checkpoint, log, mkdir_if_missing, reading, save_checkpoint, tolist_if_not

__all__ = ["TrainerBase"]


class TrainerBase:
    """Registered models and what a step and a checkpoint do with them. ``TrainerX`` is the loop around it."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Optimizer | None] = OrderedDict()
        self._scheds: OrderedDict[str, EpochScheduler | None] = OrderedDict()
        self._writer: Any = None
        self.ranks = current()
        self.output_dir = ""
        self.start_epoch = self.max_epoch = 0
        self.epoch = 0  # index of the running epoch
        self.epochs_done = 0  # by training, or by the checkpoint that is evaluated
        self.states_kept = 1  # to go on from
        self.model_dir = ""  # of the run whose weights were loaded

    def register_model(
        self,
        name: str = "model",
        model: nn.Module | None = None,
        optim: Optimizer | None = None,
        sched: EpochScheduler | None = None,
    ) -> None:
        """Put a model, with its optimiser and schedule if it learns, under the engine's care."""
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model()")
        if name in self._models:
            raise ValueError(f'a model named "{name}" is registered already')
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def set_optimizer(self, name: str, optim: Optimizer, sched: EpochScheduler | None = None) -> None:
        """Let a registered model learn, for trainers that make its optimiser only when training begins."""
        self._optims[name], self._scheds[name] = optim, sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """All registered names, or those given; ``ValueError`` for one that is not registered."""
        if names is None:
            return list(self._models)
        chosen = tolist_if_not(names)
        if unknown := [name for name in chosen if name not in self._models]:
            raise ValueError(f"no model is registered as {unknown}; registered: {list(self._models)}")
        return chosen

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """``train``, or ``test`` / ``eval``. Only registered modules are switched."""
        if mode not in ("train", "test", "eval"):
            raise KeyError(f'mode must be "train", "test" or "eval", but got "{mode}"')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # A step -----------------------------------------------------------------------------------------------------------

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first model named; 0 if it does not learn."""
        optim = self._optims[self.get_model_names(names)[0]]
        return optim.param_groups[0]["lr"] if optim is not None else 0.0

    def model_backward_and_update(self, loss: Tensor, names: str | list[str] | None = None) -> None:
        """Zero the gradients, backward, optimiser step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def detect_anomaly(self, loss: Tensor) -> None:
        """``FloatingPointError`` if the loss is infinite or NaN. Waits for the device."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedules; once per epoch, after the last batch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def run_state(self) -> dict[str, Any]:
        """Plain data, besides the models' own state, that a resumed run needs."""
        return {}

    def load_run_state(self, checkpoint: dict[str, Any]) -> None:
        """Take over what ``run_state`` returned; keys may be missing in files of other programs."""

    def check_resumable(self, directory: str) -> None:
        """``ValueError`` if the run in ``directory`` must not be continued by this one."""

    def _checkpoint(self, name: str, epoch: int, val_result: float | None = None) -> dict[str, Any]:
        optim, sched = self._optims[name], self._scheds[name]
        return {
            "state_dict": self._models[name].state_dict(),
            "epoch": epoch + 1,
            "optimizer": optim.state_dict() if optim is not None else None,
            "scheduler": sched.state_dict() if sched is not None else None,
            "val_result": val_result,
            **self.run_state(),
        }

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write ``<directory>/<name>/model.pth.tar-<epoch + 1>``, or ``model_name``, for every registered model."""
        for name in self.get_model_names():
            state, folder = self._checkpoint(name, epoch, val_result), os.path.join(directory, name)
            self.ranks.on_first(partial(save_checkpoint, state, folder, is_best=is_best, model_name=model_name))

    def keep_resumable(self) -> None:
        """Save the state after a step, or an epoch, so that an interrupted run can go on from there; after the last
        epoch its checkpoint is enough. The first rank does it, and no other waits."""
        if not self.ranks.is_first:
            return
        for name in self.get_model_names():
            folder = os.path.join(self.output_dir, name)
            if self.epochs_done < self.max_epoch:
                save_state(self._checkpoint(name, self.epochs_done - 1), folder, self.states_kept)
            elif os.path.exists(os.path.join(folder, f"model.pth.tar-{self.max_epoch}")):
                remove_states(folder)

    def holds_state(self, directory: str) -> bool:
        """Whether a run was interrupted, or ended, in ``directory``."""
        names = self.get_model_names()
        return bool(names) and all(newest_state(os.path.join(directory, name)) for name in names)

    def take_best(self, directory: str) -> None:
        """Copy the best models so far of a run that is resumed in another folder, where they may stay the best."""
        for name in self.get_model_names():
            best, here = (os.path.join(folder, name, BEST) for folder in (directory, self.output_dir))
            if os.path.isfile(best) and not os.path.exists(here):
                copy_file(best, here)

    def resume_model_if_exist(self, directory: str) -> int:
        """Restore all models from the newest state in ``directory``; returns the epoch to start from, 0 without one."""
        found = self.ranks.on_first(lambda: self._read_states(directory))
        if not found:
            log.info("No checkpoint found, train from scratch")
            return 0
        with self.ranks.together():
            for name, (path, checkpoint) in found.items():
                epoch = restore(checkpoint, self._models[name], self._optims[name], self._scheds[name], path)
                with reading(path, "the state of a run", "start in a new folder"):
                    self.load_run_state(checkpoint)
        return epoch

    def _read_states(self, directory: str) -> dict[str, tuple[str, dict[str, Any]]]:
        """Path and content of the newest state of every model; {} if there is none."""
        if not self.holds_state(directory):
            return {}
        self.check_resumable(directory)
        log.info(f"Found checkpoint at {directory} (will resume training)")
        found = read_states({name: os.path.join(directory, name) for name in self.get_model_names()})
        for name, (path, state) in found.items():
            check_state(state, path, self.max_epoch, optimizer=self._optims[name], scheduler=self._scheds[name])
        return found

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load weights for evaluation from ``<directory>/<name>/``: of ``epoch``, else the best, else the newest."""
        if not directory:
            log.info("Note that load_model() is skipped as no pretrained model is given")
            return
        self.model_dir = directory
        for name in self.get_model_names():
            path = find_checkpoint(directory, name, epoch)
            checkpoint = load_checkpoint(path)
            with reading(path, f'a checkpoint that fits "{name}"'):
                self._models[name].load_state_dict(checkpoint["state_dict"])
            self.epochs_done = checkpoint.get("epoch", 0)
            result = checkpoint.get("val_result")
            shown = "none" if result is None else f"{result:.1f}"
            log.info(f"Load {path} to {name} (epoch={self.epochs_done}, val_result={shown})")

    # TensorBoard ------------------------------------------------------------------------------------------------------

    def init_writer(self, log_dir: str) -> None:
        if self._writer is None and self.ranks.is_first:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

            mkdir_if_missing(log_dir)
            log.info(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, value: float, global_step: int | None = None) -> None:
        """Nothing happens without a writer, as in evaluation."""
        if self._writer is not None:
            self._writer.add_scalar(tag, value, global_step)
