"""A frozen zero-shot CLIP as the source of soft labels and of features to stay near to.

Letters: B images, C classes, K candidate classes a step, E joint width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.clip import load_frozen

from .method import Method, PromptedCLIP, Subset


@dataclass(frozen=True)
class TeacherOptions:
    BACKBONE: str = ""  # empty: the student's
    PATH: str = ""
    TEMPLATES: str = (
        "a photo of a {}."  # a template, dataset (the set's own) or ensemble (CLIP's seven and the set's own)
    )

    def check(self, where: str) -> None:
        check_templates(self.TEMPLATES, where)


ZERO_SHOT_CLIP = TeacherOptions()


class Teacher:
    """Zero-shot features and logits of a classifier's CLIP for the student's classes; no gradient, and nothing of it is
    saved with a method."""

    def __init__(self, classifier: PromptedCLIP, student: PromptedCLIP, templates: Sequence[str] = ()) -> None:
        self.classifier, self.student, self.templates = classifier, student, templates

    @torch.no_grad()
    def features(self, image: Tensor, classes: Subset | None = None) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W), or cached features -> unit-norm (B, E), and (C, E), or (K, E) of some classes.

        Images are resized to the teacher's resolution (bicubic). Class features are computed once.
        """
        size = self.classifier.clip.visual.input_resolution
        if image.dim() == 4 and image.shape[-1] != size:
            image = F.interpolate(image, size=(size, size), mode="bicubic", antialias=True)
        if self.classifier.classnames != self.student.classnames:
            self.classifier.set_classnames(self.student.classnames)
        return self.classifier.encode_image(image), self.classifier.zeroshot(self.templates, classes)

    def logits(self, image: Tensor, classes: Subset | None = None) -> Tensor:
        """(B, C) or (B, K), with the teacher's own logit scale."""
        return self.classifier.cosine_logits(*self.features(image, classes))


def build_teacher(student: PromptedCLIP, options: TeacherOptions, precision: str) -> Teacher:
    """The teacher of a student's classes; the student's own CLIP is not loaded a second time."""
    classifier = student
    if (options.BACKBONE, options.PATH) not in (("", ""), student.clip.source):
        clip = load_frozen(options.BACKBONE, options.PATH, precision).to(student.device)
        words = (student.template, student.ensemble, student.memory_gb)
        classifier = PromptedCLIP(clip, Method(clip), student.classnames, *words, ranks=student.ranks).eval()
    return Teacher(classifier, student, named_templates(student, options.TEMPLATES))


def named_templates(classifier: PromptedCLIP, name: str) -> Sequence[str]:
    """What the option TEMPLATES names: ``dataset``, ``ensemble``, or itself."""
    return {"dataset": (classifier.template,), "ensemble": classifier.ensemble}.get(name, (name,))


def check_templates(name: str, where: str, *more: str) -> None:
    """ValueError for an option TEMPLATES that is no template and names none; ``more``: names of a method's own."""
    if name not in (known := ("dataset", "ensemble", *more)) and "{}" not in name:
        raise ValueError(f"{where}.TEMPLATES must be {', '.join(known)} or a text with {{}}, got {name!r}")


def distillation(student: Tensor, teacher: Tensor, temperature: float, masked: Tensor | None = None) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)); logits (B, K), summed over classes, mean over images.

    Columns that are ``masked`` (B, K) do not take part, whatever T is.
    """
    logs = []
    for logits in (student, teacher):
        scaled = logits / temperature
        if masked is None:
            logs.append(F.log_softmax(scaled, dim=1))
        else:  # both logarithms become 0, so that neither the value nor the gradient sees -inf - (-inf)
            logs.append(F.log_softmax(scaled.masked_fill(masked, -math.inf), dim=1).masked_fill(masked, 0.0))
    return temperature**2 * F.kl_div(*logs, log_target=True, reduction="batchmean")
