"""TaskRes: Task Residual for Tuning Vision-Language Models (Yu et al., CVPR 2023, arXiv:2211.10277).

Letters: B images, C classes, K classes that are picked, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip import CLIP

from .method import Data, Method, PromptedCLIP, Subset, option
from .prompted_clip import unit
from .teacher import check_templates, named_templates


class ClassResiduals(Method):
    """A residual is added to each class's hand-written feature; classes that were not trained on have none."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        TEMPLATES: str = "dataset"  # of the class features: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)

    def __init__(self, clip: CLIP, options: Method.Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.residual, self.alpha = nn.Parameter(torch.zeros(num_classes, clip.embed_dim)), 1.0  # (C, E)

    def templates(self, classifier: PromptedCLIP) -> Sequence[str]:
        return named_templates(classifier, self.options.TEMPLATES)

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Make room for the classes of a file. Authors' files may hold t0_c + x_c, and t0_c beside it (ZS-LP, CLAP)."""
        if "prototypes" in state and "base_text_features" in state:
            state = {"residual": state["prototypes"].float() - state["base_text_features"].float()}
        rows = state.get("residual")
        if rows is not None and rows.dim() == 2 and len(rows) != len(self.residual):
            self.residual = nn.Parameter(self.residual.new_empty(len(rows), self.residual.shape[1]))
        return state

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        self.residual = nn.Parameter(classifier.rows_of_now(self.residual.detach()).clone())

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """t_c = t0_c + alpha x_c, normalised; t0: as they leave CLIP, averaged over templates."""
        base = classifier.zeroshot(self.templates(classifier), unit_each=False, unit_mean=False)
        text = unit(base + classifier.rows_of_now(self.alpha * self.residual))
        image = None if image is None else classifier.encode_image(image)
        return image, text if classes is None else text[classes.index]


class TaskRes(ClassResiduals):
    @dataclass(frozen=True)
    class Options(ClassResiduals.Options):
        ALPHA: float = option(0.5, least=0)  # what a residual counts for

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options, num_classes)
        self.alpha = self.options.ALPHA
