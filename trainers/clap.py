"""ZS-LP and CLAP: A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models (Silva-Rodriguez et al.,
CVPR 2024, arXiv:2312.12730).

Letters: C classes, V views of an image, N training images, E joint width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip import CLIP

from .method import Batch, Data, PromptedCLIP, option
from .prompted_clip import unit
from .task_res import ClassResiduals


class ZSLP(ClassResiduals):
    """A linear probe w_c = t0_c + x_c that starts at the hand-written features; x_c is what is learned and saved."""

    folder = "adapter"


class CLAP(ClassResiduals):
    """ZS-LP, each class kept near its hand-written feature, as much as zero-shot CLIP trusts in it."""

    folder = "adapter"

    @dataclass(frozen=True)
    class Options(ClassResiduals.Options):
        PASSES: int = option(20, least=1)  # augmented views of a training image that zero-shot CLIP looks at

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options, num_classes)
        self.register_buffer("trust", torch.zeros(num_classes), persistent=False)  # lambda, (C,)

    @torch.no_grad()
    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        """lambda_c: the mean probability that zero-shot CLIP gives class c on its training images."""
        super().begin(classifier, data)
        features, label = data.features("train", self.options.PASSES)  # (V, N, E) and (N,)
        text = classifier.zeroshot(self.templates(classifier), unit_each=False)
        member, total = F.one_hot(label, len(text)).to(text.dtype), torch.zeros_like(text[:, 0])  # (N, C) and (C,)
        for view in unit(features):
            total += (member * classifier.cosine_logits(view, text).softmax(1)).sum(0)
        self.trust = total / (len(features) * member.sum(0)).clamp(min=1)

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """CE + mean_c lambda_c |x_c|^2."""
        distance = self.residual.square().sum(dim=1)  # (C,)
        return super().loss(classifier, batch) | {"near_loss": (self.trust * distance).mean()}
