"""Tip-Adapter: Training-free Adaption of CLIP (Zhang et al., ECCV 2022, arXiv:2207.09519), and Tip-Adapter-F.

A cache of the training images' features: an image is near to those of its class.

Letters: B images, C classes, N training images, E joint width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from clip import CLIP

from .method import Data, Method, PromptedCLIP, Subset, option
from .prompted_clip import unit
from .teacher import check_templates, named_templates

STEPS = 20, 200  # values of ALPHA and of BETA that are tried, as published


class TipAdapter(Method):
    """Nothing is trained: the keys are features, and two numbers are chosen on validation images."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        PASSES: int = option(10, least=1)  # augmented views of a training image; its key is their mean
        ALPHA: float = option(1.17, least=0)  # weight of the cache
        BETA: float = option(1.0, least=0)  # how fast the weight of a training image falls with its distance
        SEARCH: bool = True  # both anew, on validation images
        SEARCH_ALPHA: float = option(3.0, above=0.1)  # the grid goes from 0.1 to this
        SEARCH_BETA: float = option(7.0, above=0.1)
        TEMPLATES: str = "dataset"  # of the class features: as TEACHER.TEMPLATES of RPP

        def check(self, where: str) -> None:
            check_templates(self.TEMPLATES, where)

    _learns: ClassVar[bool] = False

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        self.keys = nn.Parameter(torch.empty(0, clip.embed_dim), requires_grad=self._learns)  # (N, E)
        self.register_buffer("label", torch.empty(0))  # (N,) class of each key
        self.register_buffer("strength", torch.tensor([self.options.ALPHA, self.options.BETA]))
        self.register_load_state_dict_pre_hook(make_room)

    @classmethod
    def section(cls) -> str:
        return "TRAINER.TIPADAPTER"

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        make_room(self, state)
        return state

    def begin(self, classifier: PromptedCLIP, data: Data) -> None:
        if len(self.keys) and classifier.trained_on in (None, tuple(classifier.classnames)):
            return  # the cache of a file
        features, label = data.features("train", self.options.PASSES)  # (PASSES, N, E), (N,)
        self.keys = nn.Parameter(unit(features.mean(0)), requires_grad=self._learns)
        self.label = label.to(self.keys.dtype)

    def templates(self, classifier: PromptedCLIP) -> Sequence[str]:
        return named_templates(classifier, self.options.TEMPLATES)

    def features(
        self, classifier: PromptedCLIP, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        text = classifier.zeroshot(self.templates(classifier), classes)
        return None if image is None else classifier.encode_image(image), text

    def logits(self, classifier: PromptedCLIP, image: Tensor, classes: Subset | None = None) -> Tensor:
        """s v W + ALPHA exp(-BETA (1 - v F)) L: (B, C) or (B, K). Classes that were not trained on have no keys."""
        image, text = self.features(classifier, image)
        alpha, beta = self.strength
        with torch.autocast(image.device.type, enabled=False):
            cache = (beta * (image @ self.keys.t() - 1)).exp() @ one_hot(self.label, classifier)  # (B, C)
        logits = classifier.cosine_logits(image, text) + alpha * cache
        return logits if classes is None else logits[:, classes.index]

    @torch.no_grad()
    def end_epoch(self, done: int, total: int, classifier: PromptedCLIP, data: Data) -> None:
        """After the last one: the strength with the most hits on validation images, of a grid."""
        if done < total or not self.options.SEARCH:
            return
        features, label = data.features("val")
        image, text = unit(features[0]), self.features(classifier, None)[1]
        zero_shot = classifier.cosine_logits(image, text)  # (N, C)
        with torch.autocast(image.device.type, enabled=False):
            near = image @ self.keys.t()  # (N, keys)
        values, most = one_hot(self.label, classifier), -1
        alphas, betas = (grid(*ends) for ends in zip((self.options.SEARCH_ALPHA, self.options.SEARCH_BETA), STEPS))
        for beta in tqdm(betas, "BETA, ALPHA on validation images", leave=False, disable=None):
            with torch.autocast(image.device.type, enabled=False):  # as in the logits
                cache = (beta * (near - 1)).exp() @ values
            for alpha in alphas:
                if (hits := int(((zero_shot + alpha * cache).argmax(1) == label).sum())) > most:
                    most, self.strength = hits, self.strength.new_tensor([alpha, beta])


class TipAdapterF(TipAdapter):
    """Tip-Adapter-F: the keys are trained, with ALPHA and BETA as they start; these are chosen afterwards."""

    _learns = True


def one_hot(label: Tensor, classifier: PromptedCLIP) -> Tensor:
    """L, (N, C): the labels of keys as rows over the classes of now; zeros for a class that is not among them."""
    numbers = torch.arange(len(classifier.trained_on or classifier.classnames), device=label.device)
    return (label[:, None] == classifier.rows_of_now(numbers, -1)).to(label.dtype)  # (N, C)


def grid(most: float, steps: int) -> list[float]:
    return [0.1 + (most - 0.1) * step / steps for step in range(steps)]


def make_room(method: TipAdapter, state: Mapping[str, Tensor], prefix: str = "", *_: object) -> None:
    """For the cache of a file, whose size only that file knows."""
    keys = state.get(f"{prefix}keys")
    if keys is not None and keys.dim() == 2 and len(keys) != len(method.keys):
        room = method.keys.new_empty(len(keys), method.keys.shape[1])
        method.keys = nn.Parameter(room, requires_grad=method._learns)
        method.label = method.label.new_empty(len(keys))
