"""PromptSRC: Self-regulating Prompts (Khattak et al., ICCV 2023, arXiv:2307.06948).

Independent prompts of both encoders (IVLP), kept near the frozen CLIP in features and logits, and averaged over epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from .ivlp import IVLP
from .method import Batch, Data, PromptedCLIP, classification_terms, option
from .teacher import check_templates, named_templates

FIRST = "a photo of a {}."
SIXTY = (FIRST, *(text for one in OPENAI_IMAGENET_TEMPLATES if (text := one("{}")) != FIRST))[:60]


class PromptSRC(IVLP):
    @dataclass(frozen=True)
    class Options(IVLP.Options):
        N_CTX_TEXT: int = option(4, least=1)
        N_CTX_VISION: int = option(4, least=1)
        PROMPT_DEPTH_TEXT: int = option(9, least=1)
        PROMPT_DEPTH_VISION: int = option(9, least=1)
        TEXT_LOSS_WEIGHT: float = option(25.0, least=0)
        IMAGE_LOSS_WEIGHT: float = option(10.0, least=0)
        GPA_MEAN: float = 15.0  # epoch with the largest weight in the average
        GPA_STD: float = option(1.0, above=0)
        TEMPLATES: str = "imagenet"  # of the frozen text features: imagenet (60 of CLIP's 80), or as TEACHER.TEMPLATES

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where, "imagenet")

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """CE + w_t mean|t - t0| + w_v mean|v - v0| + KL(p0 || p) / (B C): eq. 3 to 6, scaled as the released code."""
        image, text = classifier.features(batch.image)
        frozen_image, frozen_text = classifier.encode_image(batch.image), self.frozen_text(classifier)
        logits, frozen = (classifier.cosine_logits(*pair) for pair in ((image, text), (frozen_image, frozen_text)))
        divergence = F.kl_div(logits.log_softmax(1), frozen.log_softmax(1), log_target=True, reduction="sum")
        return classification_terms(logits, batch.label) | {
            "text_loss": self.options.TEXT_LOSS_WEIGHT * (text - frozen_text).abs().mean(),
            "image_loss": self.options.IMAGE_LOSS_WEIGHT * (image - frozen_image).abs().mean(),
            "kd_loss": divergence / logits.numel(),
        }

    def frozen_text(self, classifier: PromptedCLIP) -> Tensor:
        """(C, E): the mean over templates of features as they leave CLIP, normalised at the end (textual diversity)."""
        chosen = self.options.TEMPLATES
        templates = SIXTY if chosen == "imagenet" else named_templates(classifier, chosen)
        return classifier.zeroshot(templates, unit_each=False)

    def end_epoch(self, done: int, total: int, classifier: PromptedCLIP, data: Data) -> None:
        """Gaussian-weighted average: sum over epochs of w_e P_e, w a normal density at e = 1..N that sums to 1 (eq. 7);
        it becomes the prompts after the last epoch."""
        weight = gaussian_weights(total, self.options.GPA_MEAN, self.options.GPA_STD)[done - 1]
        for name, parameter in self.named_parameters():
            term = weight * parameter.detach()
            self.memory[name] = term if done == 1 else self.memory[name].to(term) + term
            if done == total:
                parameter.data.copy_(self.memory[name])


def gaussian_weights(epochs: int, mean: float, std: float) -> list[float]:
    """Normal density at 1..epochs, scaled to sum 1."""
    logs = [-0.5 * ((epoch - mean) / std) ** 2 for epoch in range(1, epochs + 1)]
    density = [math.exp(log - max(logs)) for log in logs]  # a mean far from all epochs must not underflow to 0 / 0
    return [value / sum(density) for value in density]
