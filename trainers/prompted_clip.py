"""A frozen CLIP, a method and class names: a classifier. Training, evaluation, prediction and teachers all use it.

Letters: B images, C classes, P prompt tokens, D width of the image encoder, E joint width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clip import CLIP, PromptPlan, Texts
from clip.clip import PIXEL_MEAN, PIXEL_STD, image_transform
from clip.text import check_vocabulary
from dassl.ranks import Ranks
from dassl.utils import read_image

if TYPE_CHECKING:
    from .method import Method

TEMPLATE = "a photo of a {}."
Passengers = TypeVar("Passengers")
Kept = TypeVar("Kept")
KEPT_PLANS = 4  # of which class features, or new weights, are kept; one or two are usual
Picture = str | Path | Image.Image | Tensor


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a method puts into the encoders: a plan for each, None for an encoder that is left as it is."""

    text: PromptPlan | None = None
    vision: PromptPlan | None = None


@dataclass(frozen=True, eq=False)
class Subset:
    """Some of a classifier's classes, made by ``PromptedCLIP.subset``: indices (K,) on its device, and their texts, or
    those of this process's share."""

    index: Tensor
    texts: Texts


class PromptedCLIP(nn.Module):
    """Logits of images against class names under a method's prompts.

    method: owns all trainable parameters; knows neither class names nor data. template, ensemble: hand-written texts,
    the data set's own. memory_gb: budget of the text encoder's activations. precision: amp and amp_bf16 autocast CLIP.
    ranks: the processes that each encode a share of the class texts; by default this one encodes them all.
    ``transform``, PIL image -> (3, H, W), is what ``predict`` does to pictures: CLIP's own unless it is set.
    In evaluation mode class features are encoded once for the same tensors: call ``eval()`` again after a fused
    optimiser has changed them by way of another classifier.
    """

    def __init__(
        self,
        clip: CLIP,
        method: Method,
        classnames: Sequence[str],
        template: str = TEMPLATE,
        ensemble: Sequence[str] = (),
        memory_gb: float | None = None,
        precision: str = "fp32",
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks or Ranks()
        self.clip = clip.eval().requires_grad_(False)
        self.method = method.to(self.device)
        self.template, self.ensemble = template, tuple(ensemble) or (template,)
        self.memory_gb, self.precision = memory_gb, precision
        self.transform: Callable[[Image.Image], Tensor] = image_transform(clip.visual.input_resolution)
        self.pixel_mean, self.pixel_std = list(PIXEL_MEAN), list(PIXEL_STD)  # of ``transform``
        self.trained_on: tuple[str, ...] | None = None  # class names of the training, None before any
        self.set_classnames(classnames)

    def set_classnames(self, classnames: Sequence[str]) -> None:
        """Classify into these names from now on; underscores become spaces. ValueError for words CLIP does not know."""
        if not classnames:
            raise ValueError("A classifier needs class names, but there are none")
        names = [name.replace("_", " ") for name in classnames]
        texts = self.method.wording(names, self.template)
        check_vocabulary(self.clip.known_tokens, texts)
        self.classnames, self.texts = names, texts
        self.own_texts = texts.select(self.ranks.mine(torch.arange(len(texts)))) if self.ranks.size > 1 else texts
        self._forget()

    def _forget(self) -> None:
        """Drop what was made once: of a plan by its tensors, and class features of hand-written templates."""
        self._kept: dict[tuple[object, ...], tuple[PromptPlan | None, Any]] = {}
        self._handwritten: dict[tuple[tuple[bool, bool] | str, ...], Tensor] = {}

    def _apply(self, *args: object, **kwargs: object) -> PromptedCLIP:
        """``to``, ``double``, ``cuda``: what was encoded does not move along."""
        super()._apply(*args, **kwargs)
        self._forget()
        return self

    def train(self, mode: bool = True) -> PromptedCLIP:
        """The frozen CLIP stays in eval mode (the ResNets have batch norm)."""
        super().train(mode)
        self.clip.eval()
        self._kept = {}
        return self

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    def autocast(self) -> AbstractContextManager:
        """amp: fp16 on a GPU, bf16 on a CPU; amp_bf16: bf16."""
        dtype = torch.bfloat16 if self.precision == "amp_bf16" else None
        return torch.autocast(self.device.type, dtype) if self.precision.startswith("amp") else nullcontext()

    @property
    def has_fp16_activations(self) -> bool:
        """Whether small gradients would become 0 on their way, without a scaled loss."""
        return self.precision == "fp16" or (self.precision == "amp" and self.device.type == "cuda")

    # Images against classes -------------------------------------------------------------------------------------------

    def forward(self, image: Tensor, classes: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), or features (B, E) -> logits (B, C), or (B, K) for the K class indices ``classes``."""
        with self.autocast():
            return self.method.logits(self, image, None if classes is None else self.subset(classes)[0])

    def subset(self, index: Tensor, passengers: Passengers = None) -> tuple[Subset, Passengers]:
        """Some classes by their indices (K,), best on the host: their texts are packed there and travel to the device
        in one copy that nobody waits for. ``passengers``, tensors in dataclasses and tuples, travel with them."""
        index = index.cpu()
        texts = self.texts.select(self.ranks.mine(index))
        how = self.clip.text_encoder.packing(self.method.context.copies > 0, 1, self.memory_gb)
        index, passengers = texts.pack(how, (index, passengers))
        return Subset(index, texts), passengers

    @property
    def is_trained_on_these(self) -> bool:
        """Whether the class names are those of the training."""
        return self.trained_on == tuple(self.classnames)

    def rows_of_now(self, rows: Tensor, others: Tensor | float = 0) -> Tensor:
        """(classes of the training, ...) -> (classes of now, ...), by their names; ``others``, like rows of now, for
        classes that were not trained on. Before any training the classes are taken for the same; no rows are of none.
        ValueError for a file's rows without names that are not as many as the classes."""
        count, named = len(self.classnames), self.trained_on or self.classnames
        if len(rows) == count and self.trained_on in (None, tuple(self.classnames)):
            return rows
        if len(rows) not in (0, len(named)):
            raise ValueError(f"There are learned tensors of {len(rows)} classes, not of these {len(named)}")
        column = {name: number for number, name in enumerate(self.classnames)}
        columns = [column.get(name, count) for name in named][: len(rows)]  # the last: of classes that are gone
        found = rows.new_zeros(count + 1, *rows.shape[1:])
        found[:count] = others
        return found.index_copy(0, torch.tensor(columns, dtype=torch.long, device=rows.device), rows)[:count]

    def features(self, image: Tensor | None, classes: Subset | None = None) -> tuple[Tensor | None, Tensor]:
        """Unit-norm image features (B, E) and text features (C, E), or (B, C, E): see ``Method.features``."""
        return self.method.features(self, image, classes)

    @property
    def text_features(self) -> Tensor:
        """(C, E) unit-norm class features; ValueError for a method whose texts depend on the image."""
        with self.autocast():
            return self.features(None)[1]

    def cosine_logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """exp(logit_scale) <v, t>: (B, E) with (C, E) or (B, C, E) -> (B, C), in fp32 at least.

        Not under autocast: half precision would round them, and cannot hold the mask of sampled classes.
        """
        with torch.autocast(image_features.device.type, enabled=False):
            scaled = self.clip.logit_scale.exp() * image_features
            if text_features.dim() == 2:
                return scaled @ text_features.t()  # (B, C)
            return torch.einsum("be,bce->bc", scaled, text_features)

    def encode(
        self, prompts: Prompts, image: Tensor | None, classes: Subset | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Both features under these prompts, as they leave CLIP; without an image those of the classes alone."""
        features = None if image is None else self.encode_image(image, prompts.vision)
        return features, self.encode_text(prompts.text, classes)

    def encode_image(self, image: Tensor, plan: PromptPlan | None = None) -> Tensor:
        """Unit-norm features (B, E); without a plan no gradient is kept. Features (B, E) pass through."""
        if image.dim() == 2:
            return image
        learning = torch.is_grad_enabled() and plan is not None
        if plan is not None and plan.changes and not learning and not self.training:
            plan = self._once("image", plan, lambda: self.clip.visual.transformer.merge(plan))
        with torch.set_grad_enabled(learning):
            return unit(self.clip.encode_image(image, plan))

    def encode_image_and_prompt(self, image: Tensor, plan: PromptPlan) -> tuple[Tensor, Tensor]:
        """As ``encode_image`` of pixels, and the prompt rows as they leave the last layer, normed: (B, P, D)."""
        features, rows = self.clip.encode_image_and_prompt(image, plan)  # (B, E) and (B, P, D)
        return unit(features), at_least_fp32(rows)

    def encode_text(self, plan: PromptPlan | None, classes: Subset | None = None) -> Tensor:
        """Unit-norm features (C, E) or (K, E); (B, C, E) for a context per image.

        Encoded once where they cannot change: without a plan, and in evaluation mode, while its tensors are the same.
        """
        learning = plan is not None and torch.is_grad_enabled()
        if learning:
            self._kept = {}  # a step may follow, and a fused optimiser raises no version
        if learning or (plan is not None and (self.training or plan.per_image)):
            return self._encode_text(plan, classes)
        features = self._once("text", plan, lambda: self._encode_text(plan))
        return features if classes is None else features[classes.index]

    def _once(self, what: str, plan: PromptPlan | None, make: Callable[[], Kept]) -> Kept:
        """What is made of a plan without gradients, the same while its tensors are."""
        key = (what, *(() if plan is None else plan.versions()))
        if key not in self._kept:
            if len(self._kept) == KEPT_PLANS:
                self._kept = {}
            with torch.inference_mode(False), torch.no_grad():  # what is kept may meet gradients later
                self._kept[key] = plan, make()  # with the plan, its tensors' identities stay theirs
        return self._kept[key][1]

    def _encode_text(self, plan: PromptPlan | None, classes: Subset | None = None) -> Tensor:
        """Every rank encodes its share of the texts; not if they differ between its images, which are its own."""
        if plan is not None and plan.per_image:
            texts = self.texts if classes is None else self.texts.select(classes.index)
            return unit(self.clip.encode_text(texts, plan, self.memory_gb))
        if classes is None:
            texts, index = self.own_texts, torch.arange(len(self.texts))
        else:
            texts, index = classes.texts, classes.index
        if plan is not None and (classes is not None or self.ranks.size > 1):
            plan = plan.select(self.ranks.mine(index))
        return self.ranks.all_rows(unit(self.clip.encode_text(texts, plan, self.memory_gb)), len(index))

    def zeroshot(
        self,
        templates: Sequence[str] = (),
        classes: Subset | None = None,
        unit_each: bool = True,
        unit_mean: bool = True,
    ) -> Tensor:
        """(C, E) or (K, E) unit-norm class features of hand-written templates, without any: the data set's own.

        The mean over templates, of unit-norm features or (``unit_each`` false) of those that leave CLIP; without
        ``unit_mean`` as long as it is. Computed once, and not under autocast.
        """
        key = ((unit_each, unit_mean), *(templates or (self.template,)))
        if key not in self._handwritten:
            off = torch.autocast(self.device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), off:
                features = (self._encode_template(template) for template in key[1:])
                total = sum(map(unit if unit_each else at_least_fp32, features))
                self._handwritten[key] = unit(total) if unit_mean else total / (len(key) - 1)
        features = self._handwritten[key]
        return features if classes is None else features[classes.index]

    def _encode_template(self, template: str) -> Tensor:
        texts = Texts.from_strings([template.format(name) for name in self.ranks.mine(self.classnames)])
        return self.ranks.all_rows(self.clip.encode_text(texts, memory_gb=self.memory_gb), len(self.classnames))

    # Prediction -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def probabilities(self, pictures: Sequence[Picture]) -> Tensor:
        """(B, C) of pictures: paths, PIL images, or tensors (3, H, W) that ``transform`` has made."""
        batch = torch.stack([self._load(picture) for picture in pictures]).to(self.device)  # (B, 3, H, W)
        return self(batch).softmax(dim=-1)

    def predict(
        self, pictures: Picture | Sequence[Picture], topk: int = 1, batch_size: int = 64
    ) -> list[list[tuple[str, float]]]:
        """For each picture its ``topk`` class names with their probabilities, best first."""
        single = isinstance(pictures, str | Path | Image.Image) or (
            isinstance(pictures, Tensor) and pictures.dim() == 3
        )
        pictures = [pictures] if single else pictures
        found = []
        for start in range(0, len(pictures), batch_size):
            best = self.probabilities(pictures[start : start + batch_size]).topk(min(topk, len(self.classnames)))
            for values, indices in zip(best.values.tolist(), best.indices.tolist()):
                found.append([(self.classnames[i], value) for i, value in zip(indices, values)])
        return found

    def _load(self, picture: Picture) -> Tensor:
        if isinstance(picture, Tensor):
            return picture
        return self.transform(picture.convert("RGB") if isinstance(picture, Image.Image) else read_image(str(picture)))


def unit(features: Tensor) -> Tensor:
    """Normalise in at least fp32."""
    return F.normalize(at_least_fp32(features), dim=-1)


def at_least_fp32(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
