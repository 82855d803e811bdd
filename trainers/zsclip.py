"""Zero-shot CLIP (Radford et al. 2021, arXiv:2103.00020): hand-written templates, nothing is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from clip.weights import PRECISIONS

from .method import Method, PromptedCLIP, Subset, option


class ZeroshotCLIP(Method):
    """One template, the data set's own."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        PREC: str = option("auto", choices=("auto", *PRECISIONS))  # auto: fp16 on a GPU, else fp32

    def templates(self, classifier: PromptedCLIP) -> Sequence[str]:
        return (classifier.template,)

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        text = classifier.zeroshot(self.templates(classifier), classes)
        return None if image is None else classifier.encode_image(image), text


class ZeroshotCLIP2(ZeroshotCLIP):
    """Prompt ensembling: CLIP's seven ImageNet templates, plus the data set's own for sets other than ImageNet."""

    def templates(self, classifier: PromptedCLIP) -> Sequence[str]:
        return classifier.ensemble
