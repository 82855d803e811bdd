"""Registered models, their checkpoints, and the loop over epochs."""

import os
import shutil
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dassl.engine.checkpoints import BEST, LAST, find_checkpoint, newest_state
from dassl.optim.lr_scheduler import EpochScheduler
from dassl.utils import (
    atomic_write,
    load_checkpoint,
    mkdir_if_missing,
    reading,
    restore,
    save_checkpoint,
    save_torch,
    tolist_if_not,
)

__all__ = ["TrainerBase"]


class TrainerBase:
    """A loop over epochs with hooks. Knows models by the names under which they were registered."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Optimizer | None] = OrderedDict()
        self._scheds: OrderedDict[str, EpochScheduler | None] = OrderedDict()
        self._writer: Any = None
        self.output_dir = ""
        self.start_epoch = self.max_epoch = 0
        self.epoch = 0  # index of the running epoch
        self.epochs_done = 0  # by training, or by the checkpoint that is evaluated
        self.model_dir = ""  # of the run whose weights were loaded

    # Models

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

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedules; once per epoch, after the last batch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    # One step

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def detect_anomaly(self, loss: Tensor) -> None:
        """``FloatingPointError`` if the loss is infinite or NaN. Waits for the device."""
        if not torch.isfinite(loss).all():
            raise FloatingPointError("Loss is infinite or NaN!")

    def model_backward(self, loss: Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: Tensor, names: str | list[str] | None = None) -> None:
        """Zero the gradients, backward, optimiser step."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    # Checkpoints

    def run_state(self) -> dict[str, Any]:
        """Plain data, besides the models' own state, that a resumed run needs."""
        return {}

    def load_run_state(self, checkpoint: dict[str, Any]) -> None:
        """Take over what ``run_state`` returned; keys may be missing in files of other programs."""

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
            state = self._checkpoint(name, epoch, val_result)
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def keep_resumable(self) -> None:
        """Save the state after an epoch, so that an interrupted run can go on from there; after the last epoch
        its checkpoint is enough."""
        for name in self.get_model_names():
            folder = os.path.join(self.output_dir, name)
            last = os.path.join(folder, LAST)
            if self.epoch + 1 < self.max_epoch:
                save_torch(self._checkpoint(name, self.epoch), last)
            elif os.path.exists(last) and os.path.exists(os.path.join(folder, f"model.pth.tar-{self.max_epoch}")):
                os.remove(last)

    def holds_state(self, directory: str) -> bool:
        """Whether a run was interrupted, or ended, in ``directory``."""
        names = self.get_model_names()
        return bool(names) and all(newest_state(os.path.join(directory, name)) for name in names)

    def take_best(self, directory: str) -> None:
        """Copy the best models so far of a run that is resumed in another folder, where they may stay the best."""
        for name in self.get_model_names():
            best, here = (os.path.join(folder, name, BEST) for folder in (directory, self.output_dir))
            if os.path.isfile(best) and not os.path.exists(here):
                with open(best, "rb") as source, atomic_write(here) as target:
                    shutil.copyfileobj(source, target)

    def resume_model_if_exist(self, directory: str) -> int:
        """Restore all models from the newest state in ``directory``; returns the epoch to start from, 0 without one."""
        names = self.get_model_names()
        paths = [newest_state(os.path.join(directory, name)) for name in names]
        if not names or None in paths:
            print("No checkpoint found, train from scratch")
            return 0
        self.check_resumable(directory)
        print(f"Found checkpoint at {directory} (will resume training)")
        epochs = {}
        for name, path in zip(names, paths):
            print(f'Loading checkpoint from "{path}"')
            checkpoint = load_checkpoint(path)
            self._check_state(name, checkpoint, path)
            epochs[name] = restore(checkpoint, self._models[name], self._optims[name], self._scheds[name], path)
            with reading(path, "the state of a run", "start in a new folder"):
                self.load_run_state(checkpoint)
        if len(set(epochs.values())) > 1:
            raise ValueError(f'the models in "{directory}" are not of the same epoch: {epochs}; start in a new folder')
        return epochs[names[0]]

    def _check_state(self, name: str, checkpoint: Any, path: str) -> None:
        """``ValueError`` for a file that this run cannot go on from as if it had not been interrupted."""
        keys = checkpoint.keys() if isinstance(checkpoint, dict) else ()
        if "state_dict" not in keys or not isinstance(epoch := checkpoint.get("epoch"), int):
            raise ValueError(
                f'"{path}" is not the state of a run, which has a "state_dict" and the number of its "epoch"'
            )
        if epoch > self.max_epoch:
            raise ValueError(
                f'"{path}" is of epoch {epoch}, but OPTIM.MAX_EPOCH is {self.max_epoch}:'
                " raise it, or start in a new folder"
            )
        for key, target in (("optimizer", self._optims[name]), ("scheduler", self._scheds[name])):
            state = checkpoint.get(key)
            if target is None or isinstance(state, dict) or (state is None and epoch == self.max_epoch):
                continue
            raise ValueError(
                f'"{path}" holds no state of the {key}, without which training cannot go on;'
                " to start from its weights, give a new folder and TRAINER.INIT_PROMPTS"
            )

    def check_resumable(self, directory: str) -> None:
        """``ValueError`` if the run in ``directory`` must not be continued by this one."""

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load weights for evaluation from ``<directory>/<name>/``: of ``epoch``, else the best, else the newest."""
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
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
            print(f"Load {path} to {name} (epoch={self.epochs_done}, val_result={shown})")

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

            mkdir_if_missing(log_dir)
            print(f"Initialize tensorboard (log_dir={log_dir})")
            self._writer = SummaryWriter(log_dir=log_dir)

    def close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, value: float, global_step: int | None = None) -> None:
        """Nothing happens without a writer, as in evaluation."""
        if self._writer is not None:
            self._writer.add_scalar(tag, value, global_step)

    # The loop and its hooks

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """``before_train``; per epoch ``before_epoch``, ``run_epoch``, ``after_epoch``; ``after_train``."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        self.epochs_done = self.start_epoch
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.seed_epoch()
            self.before_epoch()
            self.run_epoch()
            self.epochs_done = epoch + 1
            self.after_epoch()
            self.keep_resumable()
        self.after_train()

    def seed_epoch(self) -> None: ...
    def before_train(self) -> None: ...
    def after_train(self) -> None: ...
    def before_epoch(self) -> None: ...
    def after_epoch(self) -> None: ...

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self, split: str | None = None) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float | Tensor]:
        raise NotImplementedError

    def model_inference(self, input: Any) -> Tensor:
        raise NotImplementedError
