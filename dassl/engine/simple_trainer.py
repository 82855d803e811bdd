"""One run: data, model, seeded epochs, evaluation, selection, resuming, results."""

import datetime
import os
import random
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.config import check_values
from dassl.data import DataManager
from dassl.data.datasets import fewshot_hash
from dassl.engine.checkpoints import BEST
from dassl.engine.record import RunRecord, recorded_config
from dassl.engine.trainer_base import TrainerBase
from dassl.evaluation import build_evaluator
from dassl.utils import derive_seed, set_random_seed

__all__ = ["SimpleTrainer"]


class SimpleTrainer(TrainerBase):
    """Data, model, evaluation and bookkeeping of one run; a subclass builds the model and defines the step.

    The run seed is ``cfg.SEED``; if that is negative, the one that ``config.yaml`` recorded, else a drawn one. The
    randomness of every epoch (batch order, augmentation, all global generators) is a function of (run seed, epoch),
    so a resumed run continues as if it had not been interrupted.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        check_values(cfg)
        if cfg.RESUME and not os.path.isdir(cfg.RESUME):
            raise FileNotFoundError(f'RESUME: there is no folder "{cfg.RESUME}" to go on from')
        self.check_cfg(cfg)
        self.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.scaler: Any = None
        self.is_training = False  # False as well after train(), and in an evaluation-only run
        self.has_trained = False
        self.run_seed = _run_seed(cfg)
        self.record = RunRecord(cfg, self.run_seed)
        set_random_seed(self.run_seed)
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -float("inf")

    # What a method defines

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise ``ValueError`` for settings that contradict each other. Runs first; ``self.cfg`` is not set yet."""

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

    def before_test(self, split: str) -> None:
        """Called before an evaluation, in evaluation mode and without gradients."""

    def model_inference(self, input: Tensor) -> Tensor:
        return self.model(input)

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    # Training

    def train(self) -> None:
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        self._check_selection()
        self.is_training = self.has_trained = True
        source = self.output_dir if self.holds_state(self.output_dir) else self.cfg.RESUME or self.output_dir
        self.start_epoch = self.resume_model_if_exist(source)
        self.take_best(source)
        if not self.start_epoch and os.path.abspath(source) != os.path.abspath(self.output_dir):
            raise FileNotFoundError(f'RESUME: the folder "{source}" holds no checkpoint to go on from')
        self.record.write_config()
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

    def after_epoch(self) -> None:
        if self._selects_best():
            self._evaluate_for_selection()
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        is_due = frequency > 0 and (self.epoch + 1) % frequency == 0
        if is_due or self.epoch + 1 == self.max_epoch:
            self.save_model(self.epoch, self.output_dir)

    def after_train(self) -> None:
        print("Finish training")
        print("Finished training")  # the other spelling that log parsers look for
        self.is_training = False
        if self.cfg.TEST.NO_TEST:
            self._write_metrics()
        else:
            if self._selects_best():
                print("Deploy the model with the best val performance")
                trained = self.epochs_done
                self.load_model(self.output_dir)
                self.epochs_done = trained
            else:
                print("Deploy the last-epoch model")
            self.test()
        print(f"Elapsed: {datetime.timedelta(seconds=round(time.time() - self.time_start))}")
        self.close_writer()

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first model named; 0 if it does not learn."""
        optim = self._optims[self.get_model_names(names)[0]]
        return optim.param_groups[0]["lr"] if optim is not None else 0.0

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
            print("Note: the validation images are test images, so best_val selects on the test set")

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

    # Resuming

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

    # Evaluation

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on ``split`` (default ``TEST.SPLIT``; ``val`` falls back to ``test``); returns the first result."""
        split = split or self.cfg.TEST.SPLIT
        if split not in ("test", "val"):
            raise ValueError(f'the split must be "test" or "val", but got "{split}"')
        if split == "val" and self.val_loader is None:
            split = "test"
        loader = self.val_loader if split == "val" else self.test_loader
        started = time.time()
        self.set_model_mode("eval")
        self.evaluator.reset()
        self.before_test(split)
        print(f"Evaluate on the *{split}* set")
        self._evaluate_batches(loader)
        results = self.evaluator.evaluate()
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        self.record.results[split] = dict(self.evaluator.summary or results)
        self.record.test_seconds = time.time() - started
        self._write_metrics()
        return next(iter(results.values()))

    def _evaluate_batches(self, loader: Any) -> None:
        evaluated = 0
        for batch in tqdm(loader, desc="evaluate", leave=False, disable=None):
            if batch is None:  # every image of it was unreadable
                continue
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
            evaluated += len(labels)
        if self.cfg.DATALOADER.SKIP_BROKEN:
            print(f"Unreadable images left out: {len(loader.dataset) - evaluated}")

    def _write_metrics(self) -> None:
        data_facts = {}
        if dm := getattr(self, "dm", None):
            data = dm.dataset
            few = self.cfg.DATASET.NUM_SHOTS >= 1
            data_facts = {
                "classnames": list(data.classnames),
                "template": data.template,
                "templates": list(data.templates),
                "fewshot_hash": fewshot_hash(data.train_x, self.cfg.DATASET.ROOT) if few else None,
                "num_train": len(data.train_x or ()),
                "num_val": len(data.val or ()),
                "num_test": len(data.test or ()),
            }
        params = (param for model in self._models.values() for param in model.parameters())
        facts = {
            "trainer_module": type(self).__module__,
            "num_classes": self.num_classes,
            "eval_only": not self.has_trained,
            "epoch": self.epochs_done,
            "max_epoch": self.max_epoch,
            "model_dir": self.model_dir,
            **data_facts,
            "trainable_parameters": sum(param.numel() for param in params if param.requires_grad),
            "status": "running" if self.is_training else "finished",
        }
        self.record.write_metrics(facts, self.device)
        if not self.has_trained and not recorded_config(self.output_dir):
            self.record.write_config()


def _run_seed(cfg: CfgNode) -> int:
    if cfg.SEED >= 0:
        return cfg.SEED
    recorded = recorded_config(cfg.RESUME or cfg.OUTPUT_DIR).get("SEED", -1)
    return recorded if recorded >= 0 else random.SystemRandom().randrange(2**31)
