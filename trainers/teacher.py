"""A frozen classifier, zero-shot CLIP or a run that has ended, as the source of soft labels and of class features.

Letters: B images, C classes, K candidate classes a step, E joint width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clip import CLIP
from clip.clip import load_frozen

from .load import load_classifier
from .method import Method, PromptedCLIP, Subset


@dataclass(frozen=True)
class TeacherOptions:
    RUN: str = ""  # folder of a run, whatever its method and backbone, or one of its checkpoints; empty: zero-shot CLIP
    BACKBONE: str = ""  # of zero-shot CLIP; empty: the student's
    PATH: str = ""
    TEMPLATES: str = (
        "a photo of a {}."  # a template, dataset (the set's own) or ensemble (CLIP's seven and the set's own)
    )

    def check(self, where: str) -> None:
        check_templates(self.TEMPLATES, where)
        if self.RUN and (self.BACKBONE or self.PATH):
            raise ValueError(f"{where}.RUN has a backbone of its own: leave {where}.BACKBONE and PATH empty")


ZERO_SHOT_CLIP = TeacherOptions()


class HandWritten(Method):
    """Zero-shot CLIP, with templates that it is told."""

    def __init__(self, clip: CLIP, templates: Sequence[str]) -> None:
        super().__init__(clip)
        self.templates = templates

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        image = None if image is None else classifier.encode_image(image)
        return image, classifier.zeroshot(self.templates, classes)


class Teacher:
    """Features and logits of a frozen classifier, for the student's classes or for others; no gradient, and nothing of
    it is saved with a method. Class features are computed once, until other names are asked for."""

    def __init__(self, classifier: PromptedCLIP, student: PromptedCLIP) -> None:
        self.classifier, self.student = classifier, student

    @torch.no_grad()
    def text(self, names: Sequence[str] = ()) -> Tensor:
        """(C, E): unit-norm features of class names; without any, of the student's."""
        return self.of(names).text_features

    @torch.no_grad()
    def logits(self, image: Tensor, classes: Subset | None = None, names: Sequence[str] = ()) -> Tensor:
        """(B, 3, H, W), or cached features -> (B, C), or (B, K) of some classes, with the teacher's own logit scale.

        Images are resized to the teacher's resolution (bicubic).
        """
        size = self.classifier.clip.visual.input_resolution
        if image.dim() == 4 and image.shape[-1] != size:
            image = F.interpolate(image, size=(size, size), mode="bicubic", antialias=True)
        teacher = self.of(names)
        return teacher.method.logits(teacher, image, classes)

    def of(self, names: Sequence[str]) -> PromptedCLIP:
        """The classifier for class names."""
        names = list(names) or self.student.classnames
        if self.classifier.classnames != names:
            self.classifier.set_classnames(names)
        return self.classifier


def build_teacher(student: PromptedCLIP, options: TeacherOptions, precision: str) -> Teacher:
    """The teacher of a student's classes; the student's own CLIP is not loaded a second time."""
    names, on_gpu = student.classnames, student.device.type == "cuda"
    if options.RUN:
        if not Path(options.RUN).expanduser().exists():
            raise FileNotFoundError(f"TEACHER.RUN {options.RUN} is not there: it is the folder of a run, the teacher's")
        return Teacher(load_classifier(options.RUN, names, opts=("USE_CUDA", on_gpu)), student)
    clip = student.clip
    if (options.BACKBONE, options.PATH) not in (("", ""), clip.source):
        clip = load_frozen(options.BACKBONE, options.PATH, precision).to(student.device)
    words = (student.template, student.ensemble, student.memory_gb)
    method = HandWritten(clip, named_templates(student, options.TEMPLATES))
    return Teacher(PromptedCLIP(clip, method, names, *words, ranks=student.ranks).eval(), student)


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
