"""The one trainer: it owns a method and does what all share, the device, precision, optimiser, step and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dassl.config import CfgNode
from dassl.data import DataManager
from dassl.data.transforms import build_transform
from dassl.engine import TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import log

from .checkpoints import load_prompts
from .features import ImageSets, cached_features, check_cacheable, stored_features, zeroshot_line
from .load import build_classifier, check_input, drop_other_sections, method_section
from .method import Batch, Method
from .options import read_options
from .sampling import draw_candidates
from .step import LOSS_SCALE, add_gradients


class PromptTrainer(TrainerX):
    """Trains the parameters of its ``method`` through a frozen CLIP. ``model`` is the classifier."""

    method: ClassVar[type[Method]]

    # Construction -----------------------------------------------------------------------------------------------------

    def check_cfg(self, cfg: CfgNode) -> None:
        section = method_section(cfg, self.method)
        self.options = read_options(self.method.Options, section, self.method.section())
        self.needs = self.method.needs(self.options)
        if cfg.DATALOADER.CACHE_FEATURES:
            check_cacheable(cfg, self.needs)

    def check_shares(self) -> None:
        """Gradients of shares are averaged, which is that of the whole unless a method has a rule of its own."""
        if self.needs.whole_batch or self.method.backward is not Method.backward:
            super().check_shares()

    def build_data_manager(self) -> DataManager:
        """With a transform for each view that the method wants of an image."""
        transforms = [build_transform(self.cfg, is_train=True) for _ in range(self.needs.views)]
        return DataManager(self.cfg, custom_tfm_train=transforms if self.needs.views > 1 else None)

    def build_data_loader(self) -> None:
        super().build_data_loader()
        if self.needs.unlabelled and self.train_loader_u is None:
            learner, data = type(self).__name__, self.cfg.DATASET.NAME
            how = "with DATASET.ALL_AS_UNLABELED True all training images serve as such"
            raise ValueError(f"{learner} learns from unlabelled images, but {data} has none: {how}")
        if self.needs.unlabelled:
            self.train_loader_x = self.train_loader_u

    def build_model(self) -> None:
        """The classifier; its optimiser is made by ``begin``, as evaluation needs none."""
        dataset = self.dm.dataset
        words = (dataset.classnames, dataset.template, getattr(dataset, "templates", ()))
        self.model = build_classifier(self.method, self.options, self.cfg, *words)
        check_input(self.cfg, self.model.clip.visual.input_resolution)
        self.image_sets = ImageSets(self.cfg, dataset, self.model, self.run_seed)
        if (context := self.model.method.context).length:
            log.info(f'Initial context: "{context.phrase or " ".join(["X"] * context.length)}"')
            log.info(f"Number of context words (tokens): {context.length}")
        if self.cfg.TRAINER.INIT_PROMPTS:
            load_prompts(self.model, self.cfg.TRAINER.INIT_PROMPTS)
        drop_other_sections(self.record.cfg, self.method)
        if any(True for _ in self.model.method.parameters()):
            self.register_model(self.model.method.folder, self.model.method)

    def begin(self) -> None:
        """All that training needs before its first step: the method's beginning, optimiser, schedule, loss scale."""
        method = self.model.method
        if self.needs.sampling:
            with self.ranks.together():
                self.needs.sampling.check(self.num_classes, self.ranks.size)
        with self.model.autocast():
            method.begin(self.model, self.image_sets)
        self.model.trained_on = tuple(self.model.classnames)
        log.info("Turning off gradients in both the image and the text encoder")
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        log.info(f"Parameters to be updated: {[*trained]} ({sum(p.numel() for p in trained.values()):,} numbers)")
        self.scaler = torch.amp.GradScaler(self.device.type, LOSS_SCALE, enabled=self.model.has_fp16_activations)
        self.optim = build_optimizer(trained.values(), self.cfg.OPTIM) if trained else None
        if trained:
            self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM, len(self.train_loader_x))
            self.set_optimizer(method.folder, self.optim, self.sched)

    def train(self) -> None:
        if self.get_model_names():
            return super().train()
        log.info("Zero-shot: there is nothing to train")
        self.test()

    def run_epoch(self) -> None:
        if self.optim is not None:  # else no steps: the method's beginning has made all tensors
            return super().run_epoch()
        self.record.history.append({"epoch": self.epoch + 1, "seconds": 0.0})

    def before_train(self) -> None:
        """Cache image features if asked to; for one's own images a zero-shot number comes first."""
        self.begin()
        super().before_train()
        if self.cfg.DATALOADER.CACHE_FEATURES:
            with self.model.autocast():
                self.train_loader_x = cached_features(self.train_loader_x, self.image_sets)
        if getattr(self.dm.dataset, "shows_zeroshot", False):
            log.info(zeroshot_line(self.model, self.test_loader))

    # The step ---------------------------------------------------------------------------------------------------------

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        super().set_model_mode(mode, names)
        self.model.train(mode == "train")  # in evaluation class features are encoded once

    def parse_batch_train(self, batch: Mapping[str, object]) -> Batch:
        """On the device; K_TRANSFORMS views of an image lie behind one another. Candidates are drawn on the host."""
        image, label, to = batch["img"], batch["label"], lambda t: t.to(self.device, non_blocking=True)
        if isinstance(image, list):
            label = label.repeat(len(image))  # (views * images,)
            image = torch.cat([to(view) for view in image])  # (views * images, 3, height, width)
        most = self.cfg.OPTIM.GLOBAL_BATCH // self.ranks.size * self.cfg.DATALOADER.K_TRANSFORMS
        labels, own = self.ranks.join(label, most)  # of all processes, which draw the same candidates
        self.share = len(label) * self.ranks.size / len(labels)  # 1 where shares are equal
        views = tuple(to(batch[f"img{number}"]) for number in range(2, self.needs.views + 1))
        if self.needs.sampling is None:
            return Batch.of(to(image), to(label), views)
        candidates = draw_candidates(self.needs.sampling, labels, self.num_classes).rows(own)
        classes, (candidates, label) = self.model.subset(candidates.classes, (candidates, label))
        return Batch(to(image), label, candidates, classes, views)

    def forward_backward(self, batch: Mapping[str, object]) -> dict[str, Tensor]:
        self.model_zero_grad()
        batch, passes = self.parse_batch_train(batch), self.cfg.OPTIM.ACCUM_STEPS
        summary = add_gradients(self.model, batch, passes, self.share, self.scaler.scale, self.ranks)
        self.detect_anomaly(summary["loss"])
        summary |= self.update()
        if self.batch_idx + 1 == self.num_batches or self.cfg.OPTIM.SCHEDULE_UNIT == "step":
            self.update_lr()
        return summary

    def update(self) -> dict[str, Tensor]:
        """Optimiser step; with loss scaling also ``skipped``: 1 if gradients overflowed, else 0.

        Nothing waits for the device: the scale is compared there, and falls only after an overflow.
        """
        scale = self.scaler.scale(one := torch.ones((), device=self.device))
        self.scaler.step(self.optim)
        self.scaler.update()
        return {"skipped": (self.scaler.scale(one) < scale).float()} if self.scaler.is_enabled() else {}

    def after_epoch(self) -> None:
        """Gradients that overflow at any loss scale are an error: nothing is learned."""
        if self.scaler.get_scale() < 1 / LOSS_SCALE:
            raise FloatingPointError(
                f"Gradients are infinite or NaN at every loss scale! epoch [{self.epoch + 1}/{self.max_epoch}];"
                f" try a smaller OPTIM.LR, or {self.method.section()}.PREC bf16 or fp32"
            )
        with self.model.autocast():
            self.model.method.end_epoch(self.epoch + 1, self.max_epoch, self.model, self.image_sets)
        super().after_epoch()

    def before_test(self, split: str) -> None:
        name = f"{split}_loader"
        with self.model.autocast():
            setattr(self, name, stored_features(getattr(self, name), self.image_sets, self.needs, split))

    def model_inference(self, image: Tensor) -> Tensor:
        return self.model(image)

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def run_state(self) -> dict[str, object]:
        return {**super().run_state(), "memory": self.model.method.memory, "trained_on": self.model.trained_on}

    def load_run_state(self, checkpoint: dict[str, object]) -> None:
        super().load_run_state(checkpoint)
        self.model.method.memory = checkpoint.get("memory", {})

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the prompts of a run: those of ``epoch``, without one the best, else the newest.

        The class names need not be those of the training.
        """
        if not directory or not self.get_model_names():
            log.info("Note that load_model() is skipped as no pretrained model is given")
            return
        self.model_dir = directory
        self.load_prompts(directory, epoch)

    def load_prompts(self, path: str | Path, epoch: int | None = None) -> None:
        """Load learnable tensors from a checkpoint file, or from the one of a folder that ``find_checkpoint`` takes."""
        self.epochs_done = load_prompts(self.model, path, epoch)
