"""MMRL: Multi-Modal Representation Learning (Guo and Gu, CVPR 2025, arXiv:2503.08497).

Tokens of a space that both encoders share are inserted into their upper layers. Images have two features then: that of
[CLS], kept near the frozen CLIP's, and that of the tokens, which is for the classes of the training.

Letters: B images, C classes, P representation tokens, R width of their space, D width of an encoder, E joint width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip import CLIP, PromptPlan, Texts

from .contexts import STD, check_depths
from .losses import cosine_distance, top1
from .method import Batch, Method, Needs, PromptedCLIP, Prompts, Subset, option
from .prompted_clip import unit


class MMRL(Method):
    """The names are those of the published files."""

    @dataclass(frozen=True)
    class Options(Method.Options):
        N_REP_TOKENS: int = option(5, least=0)
        REP_DIM: int = option(512, least=1)  # width of the space that both encoders share
        FIRST_LAYER: int = option(6, least=1)  # counted from 1: both encoders have the tokens from here to their ends
        ALPHA: float = option(0.7, least=0)  # share of the class feature in losses and mixed logits
        REG_WEIGHT: float = option(0.5, least=0)  # of the nearness to the frozen CLIP
        MIX: str = option("trained", choices=("trained", "always", "never"))  # on which classes a test mixes the logits

        def check(self, where: str) -> None:
            if self.ALPHA > 1:
                raise ValueError(f"{where}.ALPHA must be 1 or less, but is {self.ALPHA}")

    folder = "MultiModalRepresentationLearner"

    def __init__(self, clip: CLIP, options: Options | None = None, num_classes: int = 0) -> None:
        super().__init__(clip, options)
        chosen, first = self.options, self.options.FIRST_LAYER
        check_depths(self.section(), clip, first, first)
        self.compound_rep_tokens = nn.Parameter(STD * torch.randn(chosen.N_REP_TOKENS, chosen.REP_DIM))  # (P, R)
        towers = {"t": clip.transformer, "v": clip.visual.transformer}
        for letter, tower in towers.items():
            start = nn.Linear(chosen.REP_DIM, tower.width)  # all layers' start as copies, as published
            copies = nn.ModuleList(copy.deepcopy(start) for _ in range(first, tower.layers + 1))
            self.add_module(f"compound_rep_tokens_r2{letter}proj", copies)
        width = clip.visual.width
        self.proj_rep = nn.Parameter(width**-0.5 * torch.randn(width, clip.embed_dim))  # (D, E)

    @classmethod
    def needs(cls, options: Options) -> Needs:
        return Needs(images=True)

    def wording(self, names: Sequence[str], template: str) -> Texts:
        return Texts.from_strings([template.format(name) for name in names])

    def prompts(self) -> Prompts:
        """In layer l of an encoder its own A_l R + b_l, (P, D)."""
        plans, tokens = [], self.compound_rep_tokens
        for maps in (self.compound_rep_tokens_r2tproj, self.compound_rep_tokens_r2vproj):
            rows = {layer: own(tokens) for layer, own in enumerate(maps, self.options.FIRST_LAYER - 1)}
            plans.append(PromptPlan.inserted(rows, made_of=(tokens, *maps.parameters())))
        return Prompts(*plans)

    def both(self, classifier: PromptedCLIP, image: Tensor, classes: Subset | None = None) -> tuple[Tensor, ...]:
        """Unit-norm class features v, representation features r, (B, E) each, and text features t (C, E).

        r = mean over tokens times P_r, normalised: the sum serves as well.
        """
        prompts = self.prompts()
        image, rows = classifier.encode_image_and_prompt(image, prompts.vision)  # (B, E) and (B, P, D)
        return image, unit(rows.sum(1) @ self.proj_rep), classifier.encode_text(prompts.text, classes)

    def logits(self, classifier: PromptedCLIP, image: Tensor, classes: Subset | None = None) -> Tensor:
        """ALPHA s v t + (1 - ALPHA) s r t where the classes are those of the training, else s v t."""
        mixes = {"trained": classifier.is_trained_on_these, "always": True, "never": False}
        if not mixes[self.options.MIX]:
            return super().logits(classifier, image, classes)
        *images, text = self.both(classifier, image, classes)
        return mixed(self.options.ALPHA, *(classifier.cosine_logits(one, text) for one in images))

    def loss(self, classifier: PromptedCLIP, batch: Batch) -> dict[str, Tensor]:
        """ALPHA CE(s v t) + (1 - ALPHA) CE(s r t) + REG_WEIGHT (1 - mean <v, v0> + 1 - mean <t, t0>)."""
        chosen, (image, second, text) = self.options, self.both(classifier, batch.image)
        logits = [classifier.cosine_logits(one, text) for one in (image, second)]
        return {
            "ce_loss": chosen.ALPHA * F.cross_entropy(logits[0], batch.label),
            "rep_loss": (1 - chosen.ALPHA) * F.cross_entropy(logits[1], batch.label),
            "image_loss": chosen.REG_WEIGHT * cosine_distance(image, classifier.encode_image(batch.image)),
            "text_loss": chosen.REG_WEIGHT * cosine_distance(text, classifier.zeroshot()),
            "acc": top1(mixed(chosen.ALPHA, *logits).detach(), batch.label),
        }

    def adopt(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Some of the authors' files hold the embedded texts of their classes."""
        return {key: value for key, value in state.items() if not key.endswith("prompt_embeddings")}

    def published_names(self) -> dict[str, str]:
        names = {name: f"representation_learner.{name}" for name, _ in self.named_parameters()}
        return names | {"proj_rep": "image_encoder.proj_rep"}


def mixed(share: float, first: Tensor, second: Tensor) -> Tensor:
    return share * first + (1 - share) * second
