"""What a method is: options, learnable tensors that become prompts, a loss. It knows no engine, config tree or device.

    method = MaPLe(clip, MaPLe.Options(N_CTX=4, PROMPT_DEPTH=6))
    classifier = PromptedCLIP(clip, method, ["red fox", "badger"])

Letters: B images, C classes, P prompt tokens, D width of an encoder, E joint width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from clip import CLIP, Texts

from .contexts import Context
from .losses import top1
from .options import Options, check_options, option
from .prompted_clip import PromptedCLIP, Prompts, Subset
from .sampling import AllClasses, SampledClasses, Sampling

__all__ = [
    "Batch",
    "Context",
    "Data",
    "Method",
    "Needs",
    "Options",
    "PromptedCLIP",
    "Prompts",
    "Subset",
    "classification_terms",
    "option",
]


@dataclass(frozen=True)
class Needs:
    """What a method's loss reads besides an image, or its cached feature, and a label; the trainer serves it.

    images: the pixels, so that cached features of the frozen encoder will not do. views: of each image, augmented
    apart, in ``Batch.views``. unlabelled: all training images of the data set, whose labels are not to be read.
    sampling: candidate classes drawn for each batch, in ``Batch.candidates``. whole_batch: the loss is no mean over
    images, so that a step cannot be shared out among passes or processes.
    """

    images: bool = False
    views: int = 1
    unlabelled: bool = False
    sampling: Sampling | None = None
    whole_batch: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's images (B, 3, H, W), or cached features (B, E), labels (B,), and what else was asked for.

    candidates: columns of the logits that the loss looks at, made of those of ``classes`` (None: all classes).
    views: (B, 3, H, W) each, the second view, the third, ...
    """

    image: Tensor
    label: Tensor
    candidates: AllClasses | SampledClasses
    classes: Subset | None = None
    views: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, image: Tensor, label: Tensor, views: tuple[Tensor, ...] = ()) -> Batch:
        """With all classes as candidates."""
        return cls(image, label, AllClasses(label), None, views)

    def split(self, parts: int) -> Iterator[Batch]:
        """Up to ``parts`` batches of some of the images each, with the same candidate classes."""
        if parts == 1:
            yield self
            return
        size = -(-len(self.label) // parts)
        for rows in (slice(start, start + size) for start in range(0, len(self.label), size)):
            views = tuple(view[rows] for view in self.views)
            yield Batch(self.image[rows], self.label[rows], self.candidates.rows(rows), self.classes, views)


class Data(Protocol):
    """Whole lists of images, for methods that fit more than one batch at a time.

    classnames: of the unlabelled images if there are any, also of classes that are not trained on.
    """

    classnames: Sequence[str]

    def features(self, split: str, passes: int = 1) -> tuple[Tensor, Tensor]:
        """Raw features (passes, N, E) of the frozen encoder and labels (N,); ``split``: train, val or test.

        Several passes see the training images under several augmentations; one pass sees them as a test does.
        """


class Method(nn.Module):
    """A subclass has ``Options``, makes parameters in ``__init__`` and returns them as ``prompts``; most need no more.

    Its parameters are trained, and saved with its buffers, in fp32 whatever CLIP's precision; ``PREC`` is for who loads
    CLIP. ``num_classes`` is for methods whose parameters depend on the classes they are trained on.
    """

    Options: ClassVar[type[Options]] = Options
    folder: ClassVar[str] = "prompt_learner"  # of its checkpoints, as published files have it

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__()
        self.options = options or self.Options()
        check_options(self.options, self.section())
        self.context = Context(0)  # the learnable tokens of the text input, and the words around class names
        self.memory: dict[str, Tensor] = {}  # what an interrupted run must find again, besides the parameters
        self.register_state_dict_post_hook(publish)
        self.register_load_state_dict_pre_hook(unpublish)

    @classmethod
    def section(cls) -> str:
        """Of the config tree."""
        return f"TRAINER.{cls.__name__.upper()}"

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs()

    def wording(self, names: Sequence[str], template: str) -> Texts:
        """Class names in their texts: ``phrase name.`` with learnable tokens in the phrase. Or in others, such as the
        data set's hand-written ``template``."""
        return self.context.texts(names)

    def prompts(self) -> Prompts:
        """The parameters as prompts. One that needs more overrides ``features`` too, and gives it to itself there."""
        return Prompts()

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Unit-norm image features (B, E) and text features (C, E), or (B, C, E) for texts per image; without an image
        those of the classes alone. ``classes``: K wanted ones, in place of all C."""
        return classifier.encode(self.prompts(), image, classes)

    def logits(self, classifier: PromptedCLIP, image: Tensor, classes: Subset | None = None) -> Tensor:
        """(B, C), or (B, K): what an evaluation sees."""
        return classifier.cosine_logits(*self.features(classifier, image, classes))

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """Named terms of one batch: those that end in ``_loss`` are summed and minimised, all are logged."""
        chosen = batch.candidates
        logits = chosen.columns(self.logits(classifier, batch.image, batch.classes))
        return classification_terms(chosen.corrected(logits), chosen.target)

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Give the parameters, whose gradients are empty, those of the terms, which are all scaled alike."""
        sum(losses.values()).backward()

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        """Before training, also when it is resumed: what is made once, such as a teacher."""

    def end_epoch(self, done: int, total: int, classifier: PromptedCLIP, data: Data) -> None:
        """After each epoch, before it is evaluated and saved: ``done`` of ``total`` epochs."""

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Before a checkpoint is loaded: its tensors under this method's keys, where they are those of another method
        that it can start from; the place, too, to give parameters sizes that only the file knows, such as that of a
        cache. ValueError saying why a method's tensors cannot be taken."""
        return state

    def published_names(self) -> dict[str, str]:
        """Parameter name -> key in checkpoints, where the published files' differ."""
        return {}


def classification_terms(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of logits (B, C) with label (B,), and the batch's top-1 accuracy in percent."""
    return {"ce_loss": F.cross_entropy(logits, label), "acc": top1(logits.detach(), label)}


def publish(method: Method, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Give the tensors in a state dict the keys of the published files."""
    for ours, theirs in method.published_names().items():
        state[prefix + theirs] = state.pop(prefix + ours)


def unpublish(method: Method, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """And back, when a state dict is loaded."""
    for ours, theirs in method.published_names().items():
        if prefix + theirs in state:
            state[prefix + ours] = state.pop(prefix + theirs)
