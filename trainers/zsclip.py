"""Zero-shot CLIP (Radford et al. 2021, arXiv:2103.00020): hand-written templates, nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dassl.engine import TRAINER_REGISTRY, TrainerX

from .base import check_input, load_clip
from .prompted_clip import unit, zeroshot_features
from .templates import dataset_template, ensemble


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    """One template, the data set's own. ``train()`` only evaluates."""

    def templates(self) -> Sequence[str]:
        return [dataset_template(self.cfg, self.dm.dataset)]

    def build_model(self) -> None:
        backbone = self.cfg.MODEL.BACKBONE
        clip = load_clip(backbone.NAME, backbone.PATH, "fp16" if self.device.type == "cuda" else "fp32")
        check_input(self.cfg, clip)
        self.clip = clip.to(self.device)
        templates = self.templates()
        print(f"Prompts: {templates}" if len(templates) == 1 else f"Prompt ensembling (n={len(templates)})")
        names = self.dm.dataset.classnames
        self.text_features = zeroshot_features(clip, names, templates, self.cfg.MODEL.TEXT_MEMORY_GB)

    def train(self) -> None:
        print("Zero-shot: there is nothing to train")
        self.test()

    def model_inference(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, C)."""
        return self.clip.logit_scale.exp() * unit(self.clip.encode_image(image)) @ self.text_features.t()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """Prompt ensembling: CLIP's seven ImageNet templates, plus the data set's own for sets other than ImageNet."""

    def templates(self) -> Sequence[str]:
        return ensemble(self.cfg, self.dm.dataset)
