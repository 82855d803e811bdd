"""What all methods share: load and freeze CLIP, precision, optimiser, the step, evaluation, checkpoints.

A method is a subclass with a ``section`` of the config, its ``defaults`` and ``build_learner``; most need no more.
Its learner returns ``Prompts`` and owns the trainable tensors, which are fp32 whatever the precision of CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.clip import PIXEL_MEAN, PIXEL_STD, load_model
from clip.model import CLIP
from clip.text import Texts
from clip.weights import PRECISIONS, set_precision
from dassl.config import CfgNode, check_values
from dassl.data.datasets import DatasetBase
from dassl.engine import TrainerBase, TrainerX
from dassl.engine.checkpoints import find_checkpoint
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint, reading

from .checkpoints import load_exactly, prompts_only, rename_state
from .feature_cache import cached_features, check_cacheable
from .prompted_clip import PromptedCLIP, initial_context, zeroshot_features

# The first loss scale; it doubles after 2000 steps without an overflow. PyTorch's own, 2^16, overflows in the first
# steps of deep prompts: with the tiny CLIP, their gradients are finite up to 2^14 under fp16 autocast and up to 2^12 in
# fp16, while 2^10 lifts gradients of 6e-11 into fp16's range.
LOSS_SCALE = 2.0**10


class PromptTrainer(TrainerX):
    """Trains a learner of prompts through a frozen CLIP.

    section: name of the method's config node, ``cfg.TRAINER.<section>``; defaults: its keys (PREC and CTX_INIT shared).
    registered_name: folder of the checkpoints, as the field's published files have it.
    """

    section: ClassVar[str]
    defaults: ClassVar[dict[str, object]]
    registered_name: ClassVar[str] = "prompt_learner"
    labels_stay_on_host: ClassVar[bool] = False  # for a method that draws candidate classes

    # Hooks of a method ------------------------------------------------------------------------------------------------

    def build_learner(self, clip: CLIP) -> nn.Module:
        """The module that owns the prompts: ``forward() -> Prompts``."""
        raise NotImplementedError

    def wording(self, names: Sequence[str]) -> Texts:
        """Class names in their texts; ``phrase name.`` with the phrase's first tokens learnable."""
        return Texts.from_names(names, self.phrase, self.num_ctx)

    def compute_loss(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Named terms of one batch: keys ending in ``_loss`` are summed and minimised, all are logged."""
        return classification_terms(self.model(image), label)

    def check_backbone(self, clip: CLIP) -> None:
        """Raise ValueError if the method cannot work with this backbone."""

    def published_names(self) -> dict[str, str]:
        """Learner's parameter name -> key in checkpoints, where they differ."""
        return {}

    # Construction -----------------------------------------------------------------------------------------------------

    @property
    def options(self) -> CfgNode:
        """The method's own config node."""
        return self.cfg.TRAINER[self.section]

    @property
    def num_ctx(self) -> int:
        """Learnable context tokens: the words of CTX_INIT if there is one, else N_CTX (CoOp's rule)."""
        return len(self.phrase.split()) or self.options.N_CTX

    @property
    def phrase(self) -> str:
        """Words that the context starts from; empty for a random start."""
        return self.options.CTX_INIT.replace("_", " ")

    def check_cfg(self, cfg: CfgNode) -> None:
        if (precision := cfg.TRAINER[self.section].PREC) not in PRECISIONS:
            raise ValueError(f"TRAINER.{self.section}.PREC must be one of {', '.join(PRECISIONS)}, got {precision!r}")

    @property
    def classnames(self) -> list[str]:
        return self.dm.dataset.classnames

    def build_classifier(self) -> PromptedCLIP:
        """CLIP, the learner and the class names, on the device: all that prediction needs."""
        backbone = self.cfg.MODEL.BACKBONE
        clip = load_clip(backbone.NAME, backbone.PATH, self.options.PREC)
        self.check_backbone(clip)
        print("Building custom CLIP")
        learner = self.build_learner(clip)
        rename_state(learner, self.published_names())
        return PromptedCLIP(clip, learner, self.wording, self.classnames, self.cfg.MODEL.TEXT_MEMORY_GB).to(self.device)

    @classmethod
    def without_data(
        cls, cfg: CfgNode, classnames: Sequence[str], template: str = DatasetBase.template
    ) -> PromptTrainer:
        """A trainer for prediction only: ``model`` classifies into ``classnames``, ``load_model`` loads its prompts.

        template: the hand-written text of zero-shot CLIP, unless ``cfg.DATASET.TEMPLATE`` has one.
        """
        trainer = cls.__new__(cls)
        TrainerBase.__init__(trainer)
        check_values(cfg)
        trainer.check_cfg(cfg)
        trainer.cfg = cfg
        trainer.device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
        template = cfg.DATASET.TEMPLATE or template
        dataset = SimpleNamespace(classnames=list(classnames), template=template, templates=[template])
        trainer.dm = SimpleNamespace(dataset=dataset)
        trainer.model = trainer.build_classifier().eval()
        return trainer

    def build_model(self) -> None:
        self.model = self.build_classifier()
        check_input(self.cfg, self.model.clip)
        learner = self.model.learner
        print("Turning off gradients in both the image and the text encoder")
        if self.cfg.TRAINER.INIT_PROMPTS:
            self.load_prompts(self.cfg.TRAINER.INIT_PROMPTS)
        trained = [p for p in learner.parameters() if p.requires_grad]
        names = [name for name, p in learner.named_parameters() if p.requires_grad]
        print(f"Parameters to be updated: {names} ({sum(p.numel() for p in trained):,} numbers)")
        self.optim = build_optimizer(trained, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model(self.registered_name, learner, self.optim, self.sched)
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=LOSS_SCALE, enabled=self.scales_loss)

    def before_train(self) -> None:
        """Cache image features if asked to; for one's own images a zero-shot number comes first."""
        super().before_train()
        if self.cfg.DATALOADER.CACHE_FEATURES:
            check_cacheable(self.cfg, self.model)
            with self.autocast():
                self.train_loader_x = cached_features(self.train_loader_x, self.model, self.device)
        if getattr(self.dm.dataset, "shows_zeroshot", False):
            self.show_zeroshot()

    def after_epoch(self) -> None:
        """Gradients that overflow at any loss scale are an error: every step is skipped, nothing is learned."""
        if self.scaler.get_scale() < 1 / LOSS_SCALE:
            raise FloatingPointError(
                f"Gradients are infinite or NaN at every loss scale! epoch [{self.epoch + 1}/{self.max_epoch}];"
                f" try a smaller OPTIM.LR, or TRAINER.{self.section}.PREC bf16 or fp32"
            )
        super().after_epoch()

    def show_zeroshot(self) -> None:
        """Print zero-shot CLIP's accuracy on the test images: a wrong class name or folder shows at once."""
        dataset = self.dm.dataset
        text = zeroshot_features(self.model.clip, self.classnames, [dataset.template], self.cfg.MODEL.TEXT_MEMORY_GB)
        hits = total = 0
        with torch.no_grad(), self.autocast():
            for batch in self.test_loader:
                if batch is None:  # every image of it was unreadable
                    continue
                image, label = self.parse_batch_test(batch)
                predicted = (self.model.encode_image(image) @ text.t()).argmax(dim=1)
                hits, total = hits + int((predicted == label).sum()), total + len(label)
        print(
            f'Zero-shot CLIP with "{dataset.template}": {100 * hits / total:.1f}% on the test images'
            f" (chance: {100 / self.num_classes:.1f}%)"
        )

    def context(self, clip: CLIP) -> Tensor:
        """(P, D) start of the learnable context; says what it is, in the field's words."""
        print(f'Initial context: "{self.phrase or " ".join(["X"] * self.num_ctx)}"')
        print(f"Number of context words (tokens): {self.num_ctx}")
        return initial_context(clip, self.phrase, self.num_ctx)

    # The step ---------------------------------------------------------------------------------------------------------

    @property
    def uses_amp(self) -> bool:
        return self.options.PREC == "amp"

    @property
    def scales_loss(self) -> bool:
        """Where gradients pass through fp16 activations. The prompts themselves, and their gradients, are fp32."""
        return self.options.PREC == "fp16" or (self.uses_amp and self.device.type == "cuda")

    def autocast(self) -> AbstractContextManager:
        """fp16 on a GPU, bf16 on a CPU; nothing for the other precisions."""
        return torch.autocast(self.device.type) if self.uses_amp else nullcontext()

    def parse_batch_train(self, batch: Mapping[str, object]) -> tuple[Tensor, Tensor]:
        """Images and labels on the device (``labels_stay_on_host``: not they); K views behind one another."""
        image, label = batch["img"], batch["label"]
        if isinstance(image, list):
            label = label.repeat(len(image))
            image = torch.cat([view.to(self.device, non_blocking=True) for view in image])
        label = label if self.labels_stay_on_host else label.to(self.device, non_blocking=True)
        return image.to(self.device, non_blocking=True), label

    def forward_backward(self, batch: Mapping[str, object]) -> dict[str, Tensor]:
        image, label = self.parse_batch_train(batch)
        with self.autocast():
            terms = self.compute_loss(image, label)
        losses = {name: term for name, term in terms.items() if name.endswith("_loss")}
        loss = sum(losses.values())
        self.detect_anomaly(loss)
        skipped = self.update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        rest = {name: term for name, term in terms.items() if name not in losses}
        return {
            "loss": loss.detach(),
            **({k: v.detach() for k, v in losses.items()} if len(losses) > 1 else {}),
            **rest,
            **skipped,
        }

    def update(self, loss: Tensor) -> dict[str, Tensor]:
        """Backward and optimiser step; with loss scaling also ``skipped``: 1 if gradients overflowed, else 0.

        Nothing waits for the device: the scale is compared there, and falls only after an overflow.
        """
        one = torch.ones((), device=loss.device)
        self.model_zero_grad()
        self.scaler.scale(loss).backward()
        scale = self.scaler.scale(one)
        self.scaler.step(self.optim)
        self.scaler.update()
        return {"skipped": (self.scaler.scale(one) < scale).float()} if self.scaler.is_enabled() else {}

    def model_inference(self, image: Tensor) -> Tensor:
        with self.autocast():
            return self.model(image)

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the prompts of a run: those of ``epoch``, without one the best, else the newest.

        The class names need not be those of the training.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        self.model_dir = directory
        self.load_prompts(directory, epoch)

    def load_prompts(self, path: str | Path, epoch: int | None = None) -> None:
        """Load learnable tensors from a checkpoint file, or from the one of a folder that ``find_checkpoint`` takes."""
        path = find_checkpoint(str(path), self.registered_name, epoch)
        checkpoint = load_checkpoint(path)
        if not isinstance(checkpoint, Mapping):
            raise ValueError(f"{path} holds no state dict (names with tensors), but a {type(checkpoint).__name__}")
        with reading(path, "a checkpoint of prompts"):
            weights = prompts_only(checkpoint.get("state_dict", checkpoint), self.model.learner)
            if strange := [key for key, value in weights.items() if not isinstance(value, Tensor)]:
                raise TypeError(f"{strange[0]} is no tensor")
        load_exactly(self.model.learner, weights, path)
        self.epochs_done = checkpoint.get("epoch", 0)
        print(f'Loading weights to {self.registered_name} from "{path}" (epoch = {self.epochs_done})')


class DeepPromptTrainer(PromptTrainer):
    """For prompts in the layers of both encoders: text and vision lengths and depths (0 leaves an encoder alone)."""

    @property
    def text_depth(self) -> int:
        return self.options.PROMPT_DEPTH_TEXT

    @property
    def vision_depth(self) -> int:
        return self.options.PROMPT_DEPTH_VISION

    @property
    def num_ctx(self) -> int:
        return self.options.N_CTX_TEXT if self.text_depth else 0

    @property
    def phrase(self) -> str:
        """MaPLe's rule: up to 4 tokens start from the phrase, whose remaining words stay fixed; more are random."""
        return super().phrase if self.num_ctx <= 4 else ""

    def check_backbone(self, clip: CLIP) -> None:
        if max(self.text_depth, self.vision_depth) < 1:
            raise ValueError(f"TRAINER.{self.section}: a prompt depth of at least 1 is needed")
        if self.vision_depth and not clip.has_vit:
            raise ValueError(
                f"{type(self).__name__} puts prompts into a ViT, but {self.cfg.MODEL.BACKBONE.NAME} is a ResNet;"
                " use CoOp, CoCoOp or POMP, or a ViT backbone"
            )
        towers = {"text": (self.text_depth, "transformer"), "vision": (self.vision_depth, "visual.transformer")}
        for name, (depth, tower) in towers.items():
            if depth and depth > (layers := clip.get_submodule(tower).layers):
                raise ValueError(
                    f"TRAINER.{self.section}: prompt depth {depth} exceeds the {layers} layers of the {name} encoder"
                )


def classification_terms(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of logits (B, C) with label (B,), and the batch's top-1 accuracy in percent."""
    return {"ce_loss": F.cross_entropy(logits, label), "acc": compute_accuracy(logits.detach(), label)[0].squeeze()}


def load_clip(name: str, path: str, precision: str) -> CLIP:
    """A frozen backbone, by name or from a file, in the given precision."""
    print(f"Loading CLIP (backbone: {name or path})")
    return set_precision(load_model(name, path), precision).eval().requires_grad_(False)


def check_input(cfg: CfgNode, clip: CLIP) -> None:
    """ValueError if the images that the config makes are not those that the backbone takes."""
    size, wanted = tuple(cfg.INPUT.SIZE), clip.visual.input_resolution
    if size != (wanted, wanted):
        raise ValueError(
            f"INPUT.SIZE is {size}, but {cfg.MODEL.BACKBONE.NAME or 'the backbone'} takes ({wanted}, {wanted})"
        )
    if not torch.allclose(
        torch.tensor([*cfg.INPUT.PIXEL_MEAN, *cfg.INPUT.PIXEL_STD]), torch.tensor(PIXEL_MEAN + PIXEL_STD)
    ):
        print("Note: INPUT.PIXEL_MEAN / PIXEL_STD are not CLIP's")
