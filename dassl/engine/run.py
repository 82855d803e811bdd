"""A run apart from its training: built from a config, evaluated, recorded."""

import hashlib
import os
import random
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.config import check_values, solve_batch
from dassl.data import DataManager
from dassl.engine.models import TrainerBase
from dassl.engine.record import RunRecord, recorded_config
from dassl.evaluation import build_evaluator
from dassl.utils import log, set_random_seed

__all__ = ["Run"]


class Run(TrainerBase):
    """Data, model and evaluator of a config. ``TrainerX`` adds the training.

    The run seed is ``cfg.SEED``; if that is negative, the one that ``config.yaml`` recorded, else a drawn one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.run_seed = self.ranks.on_first(lambda: _run_seed(cfg))
        with self.ranks.together():
            self._build(cfg)
        if self.ranks.size > 1:
            loaders = {"test": self.test_loader, "validation": self.val_loader}
            sizes = {f"the number of {name} images": one and len(one.dataset) for name, one in loaders.items()}
            self.ranks.check_same(self.data_facts() | sizes)

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
        self.is_training = False  # False as well after train(), and in an evaluation-only run
        self.has_trained = False
        self.states_kept = cfg.TRAIN.KEEP_STATES
        self.record = RunRecord(cfg, self.run_seed)
        set_random_seed(self.run_seed)
        self.build_data_loader()
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def data_facts(self) -> dict[str, Any]:
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

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and labels (B,) on the device."""
        return batch["img"].to(self.device, non_blocking=True), batch["label"].to(self.device, non_blocking=True)

    def model_inference(self, input: Tensor) -> Tensor:
        return self.model(input)

    def before_test(self, split: str) -> None:
        """Called before an evaluation, in evaluation mode and without gradients."""

    def after_test_batch(self) -> None: ...

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
        self.write_metrics()
        return next(iter(results.values()))

    def _evaluate_batches(self, loader: Any) -> None:
        evaluated = 0
        for batch in self.bar(loader, "evaluate"):
            if batch is None:  # every image of it was unreadable
                continue
            images, labels = self.parse_batch_test(batch)
            self.evaluator.process(self.model_inference(images), labels)
            evaluated += len(labels)
            self.after_test_batch()
        self.evaluator.gather(self.ranks)
        if self.cfg.DATALOADER.SKIP_BROKEN:
            log.info(f"Unreadable images left out: {len(loader.dataset) - sum(self.ranks.gather(evaluated))}")

    def bar(self, loader: Any, title: str, first: int = 0) -> tqdm:
        return tqdm(loader, title, leave=False, initial=first, disable=None if self.ranks.is_first else True)

    def write_metrics(self) -> None:
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


def _run_seed(cfg: CfgNode) -> int:
    if cfg.SEED >= 0:
        return cfg.SEED
    recorded = recorded_config(cfg.RESUME or cfg.OUTPUT_DIR).get("SEED", -1)
    return recorded if recorded >= 0 else random.SystemRandom().randrange(2**31)
