"""TaskRes: Task Residual for Tuning Vision-Language Models (Yu et al., CVPR 2023, arXiv:2211.10277).

Letters: B images, C classes, K classes that are picked, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip import CLIP

from .method import Data, Method, PromptedCLIP, Subset, option
from .prompted_clip import unit
from .teacher import check_templates, named_templates


class TaskRes(Method):
    """A residual is added to each class's hand-written feature; classes that were not trained on have none."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        ALPHA: float = option(0.5, least=0)  # what a residual counts for
        TEMPLATES: str = "dataset"  # of the class features: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.residual = nn.Parameter(torch.zeros(num_classes, clip.embed_dim))  # (C, E)

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        make_room(self, state)
        return state

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        self.residual = nn.Parameter(rows_of_now(self.residual.detach(), classifier))

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """t_c = t0_c + ALPHA x_c, normalised."""
        text = class_features(classifier, self.options.TEMPLATES, self.options.ALPHA * self.residual)
        image = None if image is None else classifier.encode_image(image)
        return image, text if classes is None else text[classes.index]


def class_features(classifier: PromptedCLIP, templates: str, added: Tensor) -> Tensor:
    """Unit-norm (C, E): hand-written features as they leave CLIP, averaged over templates, and what is added to those
    of each class of the training."""
    base = classifier.zeroshot(named_templates(classifier, templates), unit_each=False, unit_mean=False)
    return unit(base + rows_of_now(added, classifier))


def rows_of_now(rows: Tensor, classifier: PromptedCLIP) -> Tensor:
    """A row for each class of the training -> for each class of now; zeros where it was not trained on."""
    count = len(classifier.classnames)
    columns = classifier.trained_columns[: len(rows)]
    found = rows.new_zeros(count + 1, rows.shape[1])  # the last: of classes that are gone
    return found.index_copy(0, columns, rows)[:count]


def make_room(method: TaskRes, state: Mapping[str, Tensor]) -> None:
    """For the classes of a file, whose number only that file knows."""
    rows = state.get("residual")
    if rows is not None and rows.dim() == 2 and len(rows) != len(method.residual):
        method.residual = nn.Parameter(method.residual.new_empty(len(rows), method.residual.shape[1]))
