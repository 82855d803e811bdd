"""The engine on one page: ``train`` reads down to the step.

train
  before_train                     go on where an interrupted run stopped; config.yaml, TensorBoard
  for every epoch:
    seed_epoch                     all randomness is a function of (run seed, epoch)
    run_epoch
      for every batch: forward_backward(batch)      the subclass's step: loss, gradients, optimiser
    after_epoch                    evaluate on validation images if they choose the model; checkpoints
  after_train                      test; metrics.json
"""

import datetime
import hashlib
import os
import random
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.checkpoints import BEST, LAST
from dassl.compat import left_out
from dassl.config import check_values, solve_batch
from dassl.data import DataManager
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
            self.ranks.check_same(self._data_facts())

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
        self.record = RunRecord(cfg, self.run_seed)
        set_random_seed(self.run_seed)
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def _data_facts(self) -> dict[str, Any]:
        """What tells whether all ranks have read the same data."""
        loaders = {"training": self.train_loader_x, "validation": self.val_loader, "test": self.test_loader}
        sizes = {f"the number of {name} images": loader and len(loader.dataset) for name, loader in loaders.items()}
        names = "\n".join(self.lab2cname.values()).encode()
        return {**sizes, "the class names (a checksum)": hashlib.sha256(names).hexdigest()[:16]}

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
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.seed_epoch()
            self.before_epoch()
            self.run_epoch()
            self.epochs_done = self.epoch + 1
            self.after_epoch()
            self.keep_resumable()
        self.after_train()

    def before_train(self) -> None:
        self._check_selection()
        self.is_training = self.has_trained = True
        is_here = self.ranks.on_first(lambda: self.holds_state(self.output_dir))
        source = self.output_dir if is_here else self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(source)
        self.ranks.on_first(lambda: self.take_best(source))
        if not self.start_epoch and os.path.abspath(source) != os.path.abspath(self.output_dir):
            raise FileNotFoundError(f'RESUME: the folder "{source}" holds no checkpoint to go on from')
        self.ranks.on_first(self.record.write_config)
        if dm := getattr(self, "dm", None):
            dm.cache_images()
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        self.time_start = time.time()

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
        lr, started, progress = self.get_current_lr(), time.time(), Progress()
        bar = self._bar(self.train_loader_x, f"epoch {self.epoch + 1}/{self.max_epoch}")
        for self.batch_idx, batch in enumerate(progress.timed(bar)):
            progress.update(self.forward_backward(batch))
            frequency = self.cfg.TRAIN.PRINT_FREQ
            if (self.batch_idx + 1) % frequency == 0 or self.num_batches < frequency:
                self._report(progress)
        self._check_finite(progress)
        seconds = time.time() - started
        self.record.history.append({"epoch": self.epoch + 1, **progress.averages(), "lr": lr, "seconds": seconds})

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

    # What is seen of it -----------------------------------------------------------------------------------------------

    def _report(self, progress: Progress) -> None:
        self._check_finite(progress)
        left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        log.info(
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] {progress} "
            f"lr {self.get_current_lr():.4e} eta {datetime.timedelta(seconds=int(progress.batch_time.avg * left))}"
        )
        step = self.epoch * self.num_batches + self.batch_idx
        for name, average in {**progress.averages(), "lr": self.get_current_lr()}.items():
            self.write_scalar(f"train/{name}", average, step)

    def detect_anomaly(self, loss: Tensor) -> None:
        """At once on a CPU. Elsewhere the averages show it, without waiting for the device in every step: a line is
        only printed, and an epoch only ends, with sums that are finite, so no checkpoint holds what followed.
        """
        if loss.device.type == "cpu" and not torch.isfinite(loss).all():
            raise FloatingPointError(self._anomaly(self.batch_idx))

    def _check_finite(self, progress: Progress) -> None:
        if (ago := progress.steps_since_overflow()) is not None:
            raise FloatingPointError(self._anomaly(self.batch_idx - ago))

    def _anomaly(self, batch: int) -> str:
        files = [os.path.join(self.output_dir, name, LAST) for name in self.get_model_names()]
        good = ", ".join(path for path in files if os.path.exists(path)) or "none yet"
        return (
            f"Loss is infinite or NaN! epoch [{self.epoch + 1}/{self.max_epoch}] batch [{batch + 1}/{self.num_batches}]"
            f", lr {self.get_current_lr():.4e}; last good checkpoint: {good}; try a smaller OPTIM.LR or fp32"
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
        }
        return state if self.scaler is None else {**state, "scaler": self.scaler.state_dict()}

    def load_run_state(self, checkpoint: dict[str, Any]) -> None:
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
        self.evaluator.gather(self.ranks)
        if self.cfg.DATALOADER.SKIP_BROKEN:
            log.info(f"Unreadable images left out: {len(loader.dataset) - sum(self.ranks.gather(evaluated))}")

    def _bar(self, loader: Any, title: str) -> tqdm:
        return tqdm(loader, desc=title, leave=False, disable=None if self.ranks.is_first else True)

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
