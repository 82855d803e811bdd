"""The engine on one page: ``train`` reads down to the step.

train
  before_train                     go on where an interrupted run stopped; config.yaml, TensorBoard
  for every epoch:
    seed_epoch                     all randomness is a function of (run seed, epoch)
    run_epoch
      for every batch:
        forward_backward(batch)    the subclass's step: loss, gradients, optimiser
        after_step                 a line; the state to go on from, if it is time; the end, if a signal asks for it
    after_epoch                    evaluate on validation images if they choose the model; checkpoints
  after_train                      test; metrics.json
"""

import datetime
import hashlib
import os
import random
import signal
import time
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.checkpoints import BEST, LAST, remove_leftovers
from dassl.compat import left_out
from dassl.config import check_values, solve_batch
from dassl.data import DataManager
from dassl.data.samplers import RankShare
from dassl.engine.interruption import Watch, generator_states, restore_generators
from dassl.engine.models import TrainerBase
from dassl.engine.progress import Progress
from dassl.engine.record import RunRecord, recorded_config
from dassl.evaluation import build_evaluator
from dassl.utils import derive_seed, log, set_random_seed

__all__ = ["SimpleTrainer", "TrainerBase", "TrainerX"]


class TrainerX(TrainerBase):
    """One run on labelled images. A subclass defines ``build_model`` and ``forward_backward(batch)``.

    The run seed is ``cfg.SEED``; if that is negative, the one that ``config.yaml`` recorded, else a drawn one. The
    randomness of every epoch (batch order, augmentation, all global generators) is a function of (run seed, epoch),
    so a resumed run continues as if it had not been interrupted.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.run_seed = self.ranks.on_first(lambda: _run_seed(cfg))
        with self.ranks.together():
            self._build(cfg)
        if self.ranks.size > 1:
            loaders = {"test": self.test_loader, "validation": self.val_loader}
            sizes = {f"the number of {name} images": one and len(one.dataset) for name, one in loaders.items()}
            self.ranks.check_same(self._data_facts() | sizes)

    def _build(self, cfg: CfgNode) -> None:
        check_values(cfg)
        if cfg.RESUME and not os.path.isdir(cfg.RESUME):
            raise FileNotFoundError(f'RESUME: there is no folder "{cfg.RESUME}" to go on from')
        self.check_cfg(cfg)
        self.cfg = solve_batch(cfg, self.ranks.size)
        self.check_shares()
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.scaler: Any = None
        self.is_training = False  # False as well after train(), and in an evaluation-only run
        self.has_trained = False
        self.best_result = -float("inf")
        self.position: dict[str, Any] | None = None  # in the middle of the epoch to go on with
        self.states_kept = cfg.TRAIN.KEEP_STATES
        self.watch = Watch(cfg.TRAIN.CHECKPOINT_STEPS, cfg.TRAIN.CHECKPOINT_MINUTES)
        self.record = RunRecord(cfg, self.run_seed)
        set_random_seed(self.run_seed)
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def _data_facts(self) -> dict[str, Any]:
        """What tells whether a run is trained on the same data."""
        names = "\n".join(self.lab2cname.values()).encode()
        return {
            "the number of training images": len(getattr(self.train_loader_x, "dataset", ())),
            "the class names (a checksum)": hashlib.sha256(names).hexdigest()[:16],
        }

    # What a method defines --------------------------------------------------------------------------------------------

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise ``ValueError`` for settings that contradict each other. Runs first; ``self.cfg`` is not set yet."""

    def check_shares(self) -> None:
        """Raise ``ValueError`` where a step is shared out among processes or passes, unless ``forward_backward`` makes
        one step of all of them."""
        if self.ranks.size * self.cfg.OPTIM.ACCUM_STEPS > 1:
            raise ValueError(
                f"{type(self).__name__} makes its steps in one process and pass, and averages no gradients"
            )

    def build_data_manager(self) -> DataManager:
        return DataManager(self.cfg)

    def build_data_loader(self) -> None:
        """Set the loaders and what is known of the classes."""
        dm = self.build_data_manager()
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def build_model(self) -> None:
        """Build the model and register its learnable part."""
        raise NotImplementedError(
            f"{type(self).__name__} must define build_model: the default CNN classifier of other engines is not part "
            "of this one, which covers labelled prompt learning only"
        )

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Images (B, 3, H, W), labels (B,) and domains (B,) on the device."""
        return (*self.parse_batch_test(batch), batch["domain"].to(self.device, non_blocking=True))

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def forward_backward(self, batch: Any) -> dict[str, float | Tensor]:
        """One step; returns named numbers or one-element tensors, such as ``{"loss": loss}``. Tensors may stay on the
        device, they are read when a line is printed."""
        raise NotImplementedError

    def model_inference(self, input: Tensor) -> Tensor:
        return self.model(input)

    def before_epoch(self) -> None: ...

    def before_test(self, split: str) -> None:
        """Called before an evaluation, in evaluation mode and without gradients."""

    # Training ---------------------------------------------------------------------------------------------------------

    def train(self) -> None:
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
        self.after_train()

    def before_train(self) -> None:
        with self.ranks.together():
            self._check_selection()
        self.is_training = self.has_trained = True
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
        progress = Progress(self.get_current_lr(), self.cfg.OPTIM.GLOBAL_BATCH)
        first = self._go_to_position(progress)
        self.batch_idx = first - 1
        bar = self._bar(self.train_loader_x, f"epoch {self.epoch + 1}/{self.max_epoch}", first)
        for self.batch_idx, batch in enumerate(progress.timed(bar), start=first):
            progress.update(self.forward_backward(batch))
            self.after_step(progress)
        self._check_finite(progress)
        seen = {"epoch": self.epoch + 1, **progress.averages(), "lr": progress.lr, "seconds": progress.batch_time.sum}
        self.record.history.append(seen)

    def after_step(self, progress: Progress) -> None:
        frequency = self.cfg.TRAIN.PRINT_FREQ
        if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
            self._report(progress)
        ending = self.ranks.highest(self.watch.ending)  # all ranks end after the same step
        if (self.watch.is_due() or ending) and self._share() is not None:
            self._check_finite(progress)
            generators = generator_states()
            self.keep_resumable({"step": self.batch_idx + 1, "progress": progress.state(), "generators": generators})
            self.watch.saved()
        if ending:
            self._end(ending)

    def after_epoch(self) -> None:
        if self._selects_best():
            self._evaluate_for_selection()
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

    def after_train(self) -> None:
        log.info("Finish training")
        log.info("Finished training")  # the other spelling that log parsers look for
        self.is_training = False
        if self.cfg.TEST.NO_TEST:
            self._write_metrics()
        else:
            if self._selects_best():
                log.info("Deploy the model with the best val performance")
                trained = self.epochs_done
                self.load_model(self.output_dir)
                self.epochs_done = trained
            else:
                log.info("Deploy the last-epoch model")
            self.test()
        log.info(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

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
            share.first_step, self.position = self.position["step"], None
            log.info(f"Going on after {self._at(share.first_step)}")
        return share.first_step

    def _at(self, batches: int) -> str:
        return f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{batches}/{self.num_batches}]"

    def _end(self, number: int) -> NoReturn:
        """End the run as a signal asked; 128 + its number is the exit status."""
        log.info(
            f"Stopped by {signal.Signals(number).name} after {self._at(self.batch_idx + 1)}; the same command goes on"
        )
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

    # Choosing the model on validation images --------------------------------------------------------------------------

    def _selects_best(self) -> bool:
        return self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST

    def _check_selection(self) -> None:
        """``ValueError`` for a selection that would not select on a validation set."""
        final = self.cfg.TEST.FINAL_MODEL
        if final not in ("last_step", "best_val"):
            raise ValueError(f'TEST.FINAL_MODEL must be "last_step" or "best_val", but got "{final}"')
        if not self._selects_best():
            return
        if self.val_loader is None:
            name = self.cfg.DATASET.NAME
            raise ValueError(f"TEST.FINAL_MODEL best_val needs validation images, but {name} has none: use last_step")
        dm = getattr(self, "dm", None)
        if dm is not None and {item.impath for item in dm.dataset.val} <= {item.impath for item in dm.dataset.test}:
            log.info("Note: the validation images are test images, so best_val selects on the test set")

    def _evaluate_for_selection(self) -> None:
        """Evaluate on the validation set; save the model, and keep the result, if it is the best so far."""
        best = self.record.results.get("val")
        result = self.test(split="val")
        if self.record.history:
            self.record.history[-1]["val_accuracy"] = result
        if result > self.best_result:
            self.best_result = result
            self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST)
        elif best is not None:
            self.record.results["val"] = best

    # Going on after an interruption -----------------------------------------------------------------------------------

    def run_state(self) -> dict[str, Any]:
        state = {
            "run_seed": self.run_seed,
            "best_result": self.best_result,
            "history": self.record.history,
            "results": self.record.results,
            "data": self._data_facts(),
        }
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_run_state(self, checkpoint: dict[str, Any]) -> None:
        for name, now in self._data_facts().items():
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

    # Evaluation -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split`` (default ``TEST.SPLIT``; ``val`` falls back to ``test``); returns the first result."""
        split = split or self.cfg.TEST.SPLIT
        if split not in ("test", "val"):
            raise ValueError(f'the split must be "test" or "val", but got "{split}"')
        if split == "val" and self.val_loader is None:
            split = "test"
        started = time.time()
        self.set_model_mode("eval")
        self.evaluator.reset()
        self.before_test(split)
        log.info(f"Evaluate on the *{split}* set")
        self._evaluate_batches(self.val_loader if split == "val" else self.test_loader)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        self.record.results[split] = dict(self.evaluator.summary or results)
        self.record.test_seconds = time.time() - started
        self._write_metrics()
        return next(iter(results.values()))

    def _evaluate_batches(self, loader: Any) -> None:
        evaluated = 0
        for batch in self._bar(loader, "evaluate"):
            if batch is None:  # every image of it was unreadable
                continue
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
            evaluated += len(labels)
            if self.watch.ending:  # not the end of a step: the state before this evaluation is kept
                self._end(self.watch.ending)
        self.evaluator.gather(self.ranks)
        if self.cfg.DATALOADER.SKIP_BROKEN:
            log.info(f"Unreadable images left out: {len(loader.dataset) - sum(self.ranks.gather(evaluated))}")

    def _bar(self, loader: Any, title: str, first: int = 0) -> tqdm:
        return tqdm(loader, title, leave=False, initial=first, disable=None if self.ranks.is_first else True)

    def _write_metrics(self) -> None:
        params = (param for model in self._models.values() for param in model.parameters())
        facts = {
            "trainer_module": type(self).__module__,
            "num_classes": self.num_classes,
            "eval_only": not self.has_trained,
            "epoch": self.epochs_done,
            "max_epoch": self.max_epoch,
            "model_dir": self.model_dir,
            **(self.record.data_facts(self.dm.dataset) if hasattr(self, "dm") else {}),
            "trainable_parameters": sum(param.numel() for param in params if param.requires_grad),
            "global_batch": self.cfg.OPTIM.GLOBAL_BATCH,
            "status": "running" if self.is_training else "finished",
        }
        self.ranks.on_first(lambda: self._write_record(facts))

    def _write_record(self, facts: dict[str, Any]) -> None:
        self.record.write_metrics(facts, self.device)
        if not self.has_trained and not recorded_config(self.output_dir):
            self.record.write_config()


SimpleTrainer = TrainerX  # two classes in other engines, which also train on unlabelled images


def _run_seed(cfg: CfgNode) -> int:
    if cfg.SEED >= 0:
        return cfg.SEED
    recorded = recorded_config(cfg.RESUME or cfg.OUTPUT_DIR).get("SEED", -1)
    return recorded if recorded >= 0 else random.SystemRandom().randrange(2**31)


def __getattr__(name: str) -> Any:
    if name == "SummaryWriter":  # public trainers import it from here; a slow import, so only for them
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    left_out(__name__, name)
