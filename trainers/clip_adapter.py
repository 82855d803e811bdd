"""CLIP-Adapter: Better Vision-Language Models with Feature Adapters (Gao et al., IJCV 2024, arXiv:2110.04544).

Letters: B images, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from clip import CLIP

from .method import Method, PromptedCLIP, Subset, option
from .prompted_clip import unit
from .teacher import check_templates, named_templates


class CLIPAdapter(Method):
    """Two layers on the image features, whose output is mixed with what they read."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        RATIO: float = option(0.2, least=0)  # of the adapted features; the rest are the frozen encoder's
        REDUCTION: int = option(4, least=1)  # width between the layers: the joint width over this
        TEMPLATES: str = "dataset"  # of the class features: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)
            if self.RATIO > 1:
                raise ValueError(f"{where}.RATIO must be 1 or less, but is {self.RATIO}")

    folder = "clip_adapter"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        width, hidden = clip.embed_dim, max(1, clip.embed_dim // self.options.REDUCTION)
        down, up = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.fc = nn.Sequential(down, nn.ReLU(), up, nn.ReLU())

    def templates(self, classifier: PromptedCLIP) -> Sequence[str]:
        return named_templates(classifier, self.options.TEMPLATES)

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """v <- r relu(W2 relu(W1 v)) + (1 - r) v. Without biases the length of v does not matter."""
        text = classifier.zeroshot(self.templates(classifier), classes)
        if image is None:
            return None, text
        frozen, ratio = classifier.encode_image(image), self.options.RATIO  # (B, E)
        return unit(ratio * self.fc(frozen) + (1 - ratio) * frozen), text
