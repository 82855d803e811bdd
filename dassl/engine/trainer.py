"""The engine on one page: ``train`` reads down to the step.

train
  before_train                     go on where an interrupted run stopped; config.yaml, TensorBoard
  for every epoch:
    seed_epoch                     all randomness is a function of (run seed, epoch)
    run_epoch
      for every batch:
        forward_backward(batch)    the subclass's step: loss, gradients, optimiser
        after_step                 if it is time: a line, the state to go on from, the end, a look at validation images
    after_epoch                    the same look, if it chooses the model; checkpoints
  after_train                      test; metrics.json
"""

import datetime
import os
import signal
import time
from typing import Any, NoReturn

import torch
from torch import Tensor

from dassl.checkpoints import BEST, LAST, remove_leftovers
from dassl.compat import left_out
from dassl.data.samplers import RankShare
from dassl.engine.interruption import Watch, generator_states, restore_generators
from dassl.engine.models import TrainerBase
from dassl.engine.progress import Progress
from dassl.engine.run import Run
from dassl.engine.selection import Selection
from dassl.utils import derive_seed, log, set_random_seed

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]


class TrainerX(Run):
    """One run on labelled images. A subclass defines ``build_model`` and ``forward_backward(batch)``.

    The randomness of every epoch (batch order, augmentation, all global generators) is a function of (run seed, epoch),
    so a resumed run continues as if it had not been interrupted.
    """

    scaler: Any = None
    progress: Progress | None = None  # of the running epoch
    position: dict[str, Any] | None = None  # in the middle of the epoch to go on with
    batch_idx, num_batches = -1, 0  # of the running epoch, which may have no steps
    must_look = False  # at the validation images, before the next step
    best_result = -float("inf")

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return (*self.parse_batch_test(batch), batch["domain"].to(self.device, non_blocking=True))

    def forward_backward(self, batch: Any) -> dict[str, float | Tensor]:
        """One step; returns named numbers or one-element tensors, such as ``{"loss": loss}``. Tensors may stay on the
        device, they are read when a line is printed."""
        raise NotImplementedError

    def before_epoch(self) -> None: ...

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        self.selection = Selection(self.cfg)
        with self.ranks.together():
            self.selection.check(self.val_loader, getattr(self, "dm", None) and self.dm.dataset)
        self.before_train()
        self.epochs_done = self.start_epoch
        with self.watch:
            for epoch in range(self.start_epoch, self.max_epoch):
                self.epoch = epoch
                self.seed_epoch()
                self.before_epoch()
                self.run_epoch()
                self.epochs_done = epoch + 1
                self.after_epoch()
                self.keep_resumable()
                self.watch.saved()
                if ending := self.ranks.highest(self.watch.ending):
                    self._end(ending)
        self.after_train()

    def before_train(self) -> None:
        self.is_training = self.has_trained = True
        self.watch = Watch(self.cfg.TRAIN.CHECKPOINT_STEPS, self.cfg.TRAIN.CHECKPOINT_MINUTES)
        is_here = self.ranks.on_first(self._look_into_folder)
        source = self.output_dir if is_here else self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(source)
        self.ranks.on_first(lambda: self.take_best(source))
        with self.ranks.together():
            if not (self.start_epoch or self.position) and os.path.abspath(source) != os.path.abspath(self.output_dir):
                raise FileNotFoundError(f'RESUME: the folder "{source}" holds no checkpoint to go on from')
        self.ranks.on_first(self.record.write_config)
        if dm := getattr(self, "dm", None):
            dm.cache_images()
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

    def _look_into_folder(self) -> bool:
        """Whether the run's own folder holds a state; what a killed process had begun to write is removed."""
        for folder in ("", *self.get_model_names()):
            remove_leftovers(os.path.join(self.output_dir, folder))
        return self.holds_state(self.output_dir)

    def seed_epoch(self) -> None:
        """Seed everything from (run seed, epoch)."""
        seed = derive_seed(self.run_seed, self.epoch)
        set_random_seed(seed)
        for loader in (self.train_loader_x, self.train_loader_u):
            if hasattr(loader, "dataset") and hasattr(loader.dataset, "set_seed"):
                loader.dataset.set_seed(seed)
            if hasattr(loader, "sampler") and hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(self.epoch)
            if getattr(loader, "generator", None) is not None:
                loader.generator.manual_seed(seed)

    def run_epoch(self) -> None:
        self.set_model_mode("train")
        self.num_batches = len(self.train_loader_x)
        self.progress = progress = Progress(self.get_current_lr(), self.cfg.OPTIM.GLOBAL_BATCH)
        first = self._go_to_position(progress)
        self.batch_idx = first - 1
        if self.must_look:
            self.look()
        bar = self.bar(self.train_loader_x, f"epoch {self.epoch + 1}/{self.max_epoch}", first)
        for self.batch_idx, batch in enumerate(progress.timed(bar), start=first):
            progress.update(self.forward_backward(batch))
            self.after_step(progress)
        self._check_finite(progress)
        seen = {"epoch": self.epoch + 1, **progress.averages(), "lr": progress.lr, "seconds": progress.batch_time.sum}
        self.record.history.append(seen)
        self.progress = None

    def after_step(self, progress: Progress) -> None:
        frequency = self.cfg.TRAIN.PRINT_FREQ
        if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
            self._report(progress)
        ending = self.ranks.highest(self.watch.ending)  # all ranks end after the same step
        self.must_look = self.selection.after_step(self.epoch, self.batch_idx + 1, self.num_batches)
        if (self.watch.is_due() or ending or self.must_look) and self._share() is not None:
            self._check_finite(progress)
            self.keep_resumable()
            self.watch.saved()
        if ending:
            self._end(ending)
        if self.must_look:
            self.look()

    def after_epoch(self) -> None:
        if self.selection.after_epoch(self.epoch + 1):
            self.record.history[-1]["val_accuracy"] = self.look()
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

    def look(self) -> float:
        """Evaluate on the validation images; save the model, and keep the result, if it is the best so far."""
        best = self.record.results.get("val")
        result = self.test(split="val")
        self.must_look = False
        if result > self.best_result:
            self.best_result = result
            self.save_model(self.epochs_done - 1, self.output_dir, val_result=result, model_name=BEST)
        elif best is not None:
            self.record.results["val"] = best
        self.set_model_mode("train")
        return result

    def after_train(self) -> None:
        log.info("Finish training")
        log.info("Finished training")  # the other spelling that log parsers look for
        self.is_training = False
        if self.cfg.TEST.NO_TEST:
            self.write_metrics()
        else:
            if self.selection.is_on:
                log.info("Deploy the model with the best val performance")
                trained = self.epochs_done
                self.load_model(self.output_dir)
                self.epochs_done = trained
            else:
                log.info("Deploy the last-epoch model")
            self.test()
        log.info(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def after_test_batch(self) -> None:
        """Not the end of a step: the state before this evaluation is kept."""
        if self.is_training and self.watch.ending:
            self._end(self.watch.ending)

    def _share(self) -> RankShare | None:
        """What orders the images of an epoch; a loader of another make has none, and no middle to go on from."""
        share = getattr(getattr(self.train_loader_x, "batch_sampler", None), "sampler", None)
        return share if isinstance(share, RankShare) else None

    def _go_to_position(self, progress: Progress) -> int:
        """Draw the epoch's order, and go to where an interrupted run stopped in it; returns the next step."""
        if (share := self._share()) is None:
            return 0
        share.draw()
        share.first_step = 0
        if self.position:
            progress.load(self.position["progress"])
            restore_generators(self.position["generators"])
            share.first_step, self.must_look = self.position["step"], self.position.get("look", False)
            self.position = None
            log.info(f"Going on after {self._at(share.first_step)}")
        return share.first_step

    def _at(self, batches: int) -> str:
        return f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{batches}/{self.num_batches}]"

    def _end(self, number: int) -> NoReturn:
        """End the run as a signal asked; 128 + its number is the exit status."""
        name = signal.Signals(number).name
        log.info(f"Stopped by {name} after {self._at(self.batch_idx + 1)}; the same command goes on")
        self.close_writer()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    # What is seen of it -----------------------------------------------------------------------------------------------

    def _report(self, progress: Progress) -> None:
        self._check_finite(progress)
        left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        speed, lr = progress.speed(), self.get_current_lr()
        log.info(
            f"{self._at(self.batch_idx + 1)} {progress} "
            f"lr {lr:.4e} eta {datetime.timedelta(seconds=int(progress.batch_time.avg * left))} "
            f"images/s {speed['images_per_second']:.1f} waiting {speed['waiting_for_data']:.0f}%"
        )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, average in {**progress.averages(), "lr": lr, **speed}.items():
            self.write_scalar(f"train/{name}", average, step)

    def detect_anomaly(self, loss: Tensor) -> None:
        """At once on a CPU. Elsewhere the averages show it, without waiting for the device in every step: a line is
        only printed, and an epoch only ends, with sums that are finite, so no checkpoint holds what followed.
        """
        if loss.device.type == "cpu" and not torch.isfinite(loss).all():
            self._refuse(self.batch_idx)

    def _check_finite(self, progress: Progress) -> None:
        if (ago := progress.steps_since_overflow()) is not None:
            self._refuse(self.batch_idx - ago)

    def _refuse(self, batch: int) -> NoReturn:
        """Of all ranks, which have the same loss, the first one tells."""
        if not self.ranks.is_first:
            raise SystemExit(2)
        files = [os.path.join(self.output_dir, name, LAST) for name in self.get_model_names()]
        good = ", ".join(path for path in files if os.path.exists(path)) or "none yet"
        raise FloatingPointError(
            f"Loss is infinite or NaN! {self._at(batch + 1)}, lr {self.get_current_lr():.4e};"
            f" last good checkpoint: {good}; try a smaller OPTIM.LR or fp32"
        )

    # Going on after an interruption -----------------------------------------------------------------------------------

    def run_state(self) -> dict[str, Any]:
        state = {
            "run_seed": self.run_seed,
            "best_result": self.best_result,
            "history": self.record.history,
            "results": self.record.results,
            "data": self.data_facts(),
            "position": self._position(),
        }
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def _position(self) -> dict[str, Any] | None:
        """Where in an epoch the run is, which ``_go_to_position`` finds again; None between epochs."""
        if self.progress is None:
            return None
        averages, generators = self.progress.state(), generator_states()
        return {"step": self.batch_idx + 1, "look": self.must_look, "progress": averages, "generators": generators}

    def load_run_state(self, checkpoint: dict[str, Any]) -> None:
        for name, now in self.data_facts().items():
            if (there := checkpoint.get("data", {}).get(name, now)) != now:
                raise ValueError(f"it was trained on other data: {name} is {there} there, {now} now")
        self.position = checkpoint.get("position")
        if self.cfg.SEED < 0:
            self.run_seed = self.record.cfg.SEED = checkpoint.get("run_seed", self.run_seed)
        self.best_result = checkpoint.get("best_result", self.best_result)
        self.record.history = checkpoint.get("history", [])
        self.record.results = checkpoint.get("results", {})
        if self.scaler is not None and checkpoint.get("scaler"):
            self.scaler.load_state_dict(checkpoint["scaler"])

    def check_resumable(self, directory: str) -> None:
        self.record.check_same_config(directory)


SimpleTrainer = TrainerX  # two classes in other engines, which also train on unlabelled images


def __getattr__(name: str) -> Any:
    if name == "SummaryWriter":  # public trainers import it from here; a slow import, so only for them
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    left_out(__name__, name)
