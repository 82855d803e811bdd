"""Zero-shot CLIP (Radford et al. 2021, arXiv:2103.00020): hand-written templates, nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import PromptPlan
from clip.text import Texts
from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY

from .base import PromptTrainer, check_input, load_clip
from .prompted_clip import PromptedCLIP, Prompts, zeroshot_features


class NoPrompts(nn.Module):
    def forward(self) -> Prompts:
        return Prompts()


class TemplateClassifier(PromptedCLIP):
    """Class features are the mean over templates."""

    def __init__(self, clip: CLIP, templates: Sequence[str], classnames: Sequence[str], memory_gb: float | None = None):
        self.templates = templates
        first = lambda names: Texts.from_strings([templates[0].format(name) for name in names])  # noqa: E731
        super().__init__(clip, NoPrompts(), first, classnames, memory_gb)

    def encode_text(self, plan: PromptPlan | None, classes: Tensor | None = None, texts: Texts | None = None) -> Tensor:
        return zeroshot_features(self.clip, self.classnames, self.templates, self.memory_gb)


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(PromptTrainer):
    """One template, the data set's own. ``train()`` only evaluates."""

    section = ""
    uses_amp = False

    @property
    def templates(self) -> Sequence[str]:
        return [self.dm.dataset.template]

    def check_cfg(self, cfg: CfgNode) -> None:
        """There are no options of its own."""

    def build_classifier(self) -> PromptedCLIP:
        backbone, templates = self.cfg.MODEL.BACKBONE, self.templates
        clip = load_clip(backbone.NAME, backbone.PATH, "fp16" if self.device.type == "cuda" else "fp32")
        print(f"Prompts: {list(templates)}" if len(templates) == 1 else f"Prompt ensembling (n={len(templates)})")
        return TemplateClassifier(clip, templates, self.classnames, self.cfg.MODEL.TEXT_MEMORY_GB).to(self.device)

    def build_model(self) -> None:
        self.model = self.build_classifier()
        check_input(self.cfg, self.model.clip)

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """There is nothing to load."""

    def train(self) -> None:
        print("Zero-shot: there is nothing to train")
        self.test()


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """Prompt ensembling: CLIP's seven ImageNet templates, plus the data set's own for sets other than ImageNet."""

    @property
    def templates(self) -> Sequence[str]:
        return self.dm.dataset.templates or super().templates
