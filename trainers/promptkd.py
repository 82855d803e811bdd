"""PromptKD: Unsupervised Prompt Distillation (Li et al., CVPR 2024, arXiv:2403.02781).

A student's vision prompts and a projector learn a teacher's answers to images without labels; the class features are
the teacher's.

Letters: B images, C classes, E joint width of the student, T that of the teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from clip import CLIP

from .method import Batch, Data, Needs, PromptedCLIP, Subset, option
from .prompted_clip import at_least_fp32, unit
from .teacher import ZERO_SHOT_CLIP, Teacher, TeacherOptions, build_teacher, distillation
from .vpt import VPT

PROJECTOR = "VPT_image_trans.conv1"  # in the authors' files


class PromptKD(VPT):
    @dataclass(frozen=True)
    class Options(VPT.Options):
        N_CTX_VISION: int = option(4, least=1)
        PROMPT_DEPTH_VISION: int = option(9, least=1)
        KD_WEIGHT: float = option(1000.0, above=0)
        TEMPERATURE: float = option(1.0, above=0)
        TEACHER: TeacherOptions = ZERO_SHOT_CLIP

    folder = "VLPromptLearner"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.teacher: Teacher | None = None
        self.names: list[str] = []  # of the classes of the unlabelled images
        self.projector = projector(clip.embed_dim, clip.embed_dim)  # until the teacher's width is known

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True, unlabelled=True, whole_batch=True)

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        self.names = [name.replace("_", " ") for name in data.classnames]
        self._fit_projector(self._text(classifier, self.names).shape[1])

    def _text(self, classifier: PromptedCLIP, names: list[str]) -> Tensor:
        """(C, T): the teacher's unit-norm features of class names."""
        if self.teacher is None:
            self.teacher = build_teacher(classifier, self.options.TEACHER, self.options.PREC)
        return self.teacher.text(names)

    def _fit_projector(self, width: int) -> None:
        """Make its output ``width`` wide; a new one if it is not."""
        first, last = self.projector[0].weight, self.projector[3]
        if last.out_features != width:
            self.projector = projector(first.shape[1], width).to(first)

    def _student(self, classifier: PromptedCLIP, image: Tensor) -> Tensor:
        """(B, T): v^ of W2 relu(BN(W1 v)) + b2, v (B, E) as it leaves the prompted encoder."""
        raw = classifier.clip.encode_image(image, self.prompts().vision)  # (B, E)
        return unit(self.projector(at_least_fp32(raw)))

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        text = self._text(classifier, classifier.classnames)
        image = None if image is None else self._student(classifier, image)
        return image, text if classes is None else text[classes.index]

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """KD_WEIGHT T^2 KL(teacher || student) / (B C), over all classes of the unlabelled images; no label is read."""
        text = self._text(classifier, self.names or classifier.classnames)
        student = classifier.cosine_logits(self._student(classifier, batch.image), text)  # (B, C)
        teacher = self.teacher.logits(batch.image, names=self.names or classifier.classnames)  # (B, C)
        divergence = distillation(student, teacher, self.options.TEMPERATURE)
        return {"kd_loss": self.options.KD_WEIGHT * divergence / len(text)}

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The authors' projector: its layers are 1x1 convolutions, and the first has a bias, which the normalisation
        takes away again: it goes into the mean."""
        state = {key: rows.flatten(1) if rows.dim() == 4 else rows for key, rows in state.items()}
        if (bias := state.pop(f"{PROJECTOR}.0.bias", None)) is not None:
            state[f"{PROJECTOR}.1.running_mean"] = state[f"{PROJECTOR}.1.running_mean"] - bias
        last = state.get(f"{PROJECTOR}.3.weight")
        if last is not None and last.dim() == 2:
            self._fit_projector(len(last))
        return state

    def published_names(self) -> dict[str, str]:
        own = {f"projector.{name}": f"{PROJECTOR}.{name}" for name in self.projector.state_dict()}
        return {**super().published_names(), **own}


def projector(width: int, wanted: int) -> nn.Sequential:
    """(B, width) -> (B, wanted)."""
    first, last = nn.Linear(width, wanted, bias=False), nn.Linear(wanted, wanted)
    norm = nn.BatchNorm1d(wanted)
    norm.num_batches_tracked = norm.num_batches_tracked.float()  # as all that a checkpoint has
    return nn.Sequential(first, norm, nn.ReLU(inplace=True), last)
