"""A frozen CLIP, a learner of prompts and a list of class names: a classifier. Written once for all methods.

Letters: B images, C classes, P prompt tokens, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from clip.prompts import LayerPrompt, PromptPlan
from clip.text import Texts, check_vocabulary, packing
from clip.transfer import to_device

Candidates = TypeVar("Candidates")
Wording = Callable[[Sequence[str]], Texts]


@dataclass(frozen=True)
class Prompts:
    """What a learner returns: a plan for each encoder, None for an encoder that is left as it is."""

    text: PromptPlan | None = None
    vision: PromptPlan | None = None


class PromptedCLIP(nn.Module):
    """Logits of images against class names under the learner's prompts.

    learner: ``forward() -> Prompts``, or ``forward(image_features (B, E)) -> Prompts`` if its attribute
        ``conditional`` is true. Owns all trainable parameters; knows neither class names nor CLIP.
    wording: class names -> tokenised texts with the learner's context slots.
    memory_gb: budget of the text encoder's activations.
    """

    def __init__(
        self,
        clip: CLIP,
        learner: nn.Module,
        wording: Wording,
        classnames: Sequence[str],
        memory_gb: float | None = None,
    ):
        super().__init__()
        self.clip = clip.eval().requires_grad_(False)
        self.learner = learner
        self.wording, self.memory_gb = wording, memory_gb
        self.set_classnames(classnames)

    def set_classnames(self, classnames: Sequence[str]) -> None:
        """Classify into these names from now on; underscores become spaces. ValueError for words CLIP does not know."""
        self.classnames = [name.replace("_", " ") for name in classnames]
        self.texts = self.wording(self.classnames)
        check_vocabulary(self.clip, self.texts)
        self._text_cache: tuple[object, Tensor] | None = None

    def train(self, mode: bool = True) -> PromptedCLIP:
        """The frozen CLIP stays in eval mode (the ResNets have batch norm)."""
        super().train(mode)
        self.clip.eval()
        return self

    def forward(self, image: Tensor, classes: Tensor | None = None, texts: Texts | None = None) -> Tensor:
        """(B, 3, H, W), or features (B, E) -> logits (B, C), or (B, K) for the K class indices ``classes``.

        texts: those of ``classes``, from ``to_device``; without them the indices are read on the host.
        """
        image_features, prompts = self.image_features(image)
        return self.logits(image_features, self.text_features(prompts, classes, texts))

    def to_device(self, chosen: Candidates) -> tuple[Candidates, Texts | None]:
        """Candidate classes from the host to the device and their texts, packed there: one copy, nothing waits.

        chosen: a dataclass of tensors; its ``classes`` are the indices (K,) to be encoded, or None for all.
        """
        texts = None if chosen.classes is None else self.texts.select(chosen.classes)
        plan = None if getattr(self.learner, "conditional", False) else self.learner().text
        if texts is None or plan is None:
            return to_device(chosen, self.clip.positional_embedding.device), texts
        return texts.pack(packing(self.clip, plan, self.memory_gb), chosen), texts

    def image_features(self, image: Tensor) -> tuple[Tensor, Prompts]:
        """Unit-norm features (B, E) and the prompts they were made with."""
        conditional = getattr(self.learner, "conditional", False)
        prompts = None if conditional else self.learner()
        features = self.encode_image(image, None if conditional else prompts.vision)
        return features, self.learner(features) if conditional else prompts

    def encode_image(self, image: Tensor, plan: PromptPlan | None = None) -> Tensor:
        """Unit-norm features (B, E); without a plan no gradient is kept. Features (B, E) pass through."""
        if image.dim() == 2:
            return image
        with torch.set_grad_enabled(torch.is_grad_enabled() and plan is not None):
            return unit(self.clip.encode_image(image, plan))

    def text_features(self, prompts: Prompts, classes: Tensor | None = None, texts: Texts | None = None) -> Tensor:
        """Unit-norm features (C, E) or (K, E); (B, C, E) for prompts per image.

        Encoded once where they cannot change: without text prompts, and in evaluation until the parameters change.
        """
        plan = prompts.text
        constant = plan is None or not (torch.is_grad_enabled() or plan.input.dim() == 4)
        if not constant:
            self._text_cache = None  # what follows changes the parameters; a fused optimiser raises no version
            return self.encode_text(plan, classes, texts)
        version = None if plan is None else tuple((id(p), p._version) for p in self.learner.parameters())
        if self._text_cache is None or self._text_cache[0] != version:
            with torch.no_grad():
                self._text_cache = (version, self.encode_text(plan))
        features = self._text_cache[1]
        return features if classes is None else features[classes.to(features.device, non_blocking=True)]

    def encode_text(self, plan: PromptPlan | None, classes: Tensor | None = None, texts: Texts | None = None) -> Tensor:
        if classes is not None and plan is not None and plan.input.dim() == 3:  # one context per class
            plan = PromptPlan(plan.input[classes.to(plan.input.device, non_blocking=True)], plan.layers)
        if texts is None:
            texts = self.texts if classes is None else self.texts.select(classes)
        return unit(self.clip.encode_text(texts, plan, self.memory_gb))

    def logits(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        return cosine_logits(self.clip, image_features, text_features)


def unit(features: Tensor) -> Tensor:
    """Normalise in at least fp32."""
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)


def cosine_logits(clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
    """exp(logit_scale) <v, t>: (B, E) with (C, E) or (B, C, E) -> (B, C), in fp32 at least.

    Not under autocast: half precision would round them, and cannot hold the mask of POMP's sampled classes.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        scaled = clip.logit_scale.exp() * image_features
        if text_features.dim() == 2:
            return scaled @ text_features.t()
        return torch.einsum("be,bce->bc", scaled, text_features)


@torch.no_grad()
def zeroshot_features(
    clip: CLIP, classnames: Sequence[str], templates: Sequence[str], memory_gb: float | None = None
) -> Tensor:
    """(C, E) class features of hand-written templates: unit-norm per template, averaged, unit-norm again."""
    names = [name.replace("_", " ") for name in classnames]
    mean = sum(
        unit(clip.encode_text(Texts.from_strings([template.format(name) for name in names]), memory_gb=memory_gb))
        for template in templates
    )
    return unit(mean)


def initial_context(clip: CLIP, phrase: str, num_ctx: int) -> Tensor:
    """(P, D) token embeddings of the phrase's first ``num_ctx`` tokens, or N(0, 0.02^2) without a phrase; fp32."""
    check_length(num_ctx)
    if not phrase:
        return 0.02 * torch.randn(num_ctx, clip.transformer.width)
    texts = Texts.from_strings([phrase])
    if texts.lengths[0] - 2 < num_ctx:
        raise ValueError(
            f"CTX_INIT {phrase!r} has {texts.lengths[0] - 2} tokens, fewer than the {num_ctx} context tokens"
        )
    check_vocabulary(clip, texts)
    ids = texts.ids[0, 1 : 1 + num_ctx].to(clip.token_embedding.weight.device)
    return clip.token_embedding(ids).detach().float().clone()


def check_length(num_tokens: int) -> None:
    if num_tokens < 1:
        raise ValueError(f"A prompt needs at least 1 token, but its length (N_CTX) is {num_tokens}")


def random_prompts(depth: int, num_tokens: int, width: int) -> nn.ParameterList:
    """(P, D) prompts for ``depth`` layers, N(0, 0.02^2) each."""
    if depth < 0:
        raise ValueError(f"A prompt depth must be 0 or more, but is {depth}")
    if depth:
        check_length(num_tokens)
    return nn.ParameterList(0.02 * torch.randn(num_tokens, width) for _ in range(depth))


def shared_plan(rows: Sequence[Tensor]) -> PromptPlan | None:
    """Prompts (P, D) of layers 1..J, each replacing the rows that its layer receives; None for J = 0."""
    if not len(rows):
        return None
    return PromptPlan(rows[0], {layer: LayerPrompt.shared(rows[layer]) for layer in range(1, len(rows))})
