"""Learnable tokens: the context in front of a class name, and prompts in the layers of an encoder.

Letters: P prompt tokens, D width of an encoder, J prompted layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip import CLIP, LayerPrompt, PromptPlan, Texts
from clip.text import check_vocabulary

STD = 0.02  # of random tokens, in all papers


@dataclass(frozen=True)
class Context:
    """The context of a class name: its first ``length`` tokens are learnable, the phrase's other words stay.

    phrase: words in front of the name that the context starts from; empty: a random start. position: of the name among
    the tokens, end, middle or front (CoOp). copies: 0 for a context that all classes share, else one for each of them.
    """

    length: int
    phrase: str = ""
    position: str = "end"
    copies: int = 0

    @classmethod
    def of_phrase(cls, phrase: str, length: int, position: str = "end", copies: int = 0) -> Context:
        """CoOp's rule: as many tokens as the phrase has words, ``length`` without a phrase; a phrase is shared."""
        phrase = phrase.replace("_", " ")
        return cls(len(phrase.split()) or length, phrase, position, 0 if phrase else copies)

    @classmethod
    def first_tokens(cls, phrase: str, length: int) -> Context:
        """MaPLe's rule: up to 4 tokens start from the phrase, whose remaining words stay fixed; more are random."""
        return cls(length, phrase.replace("_", " ") if length <= 4 else "")

    def texts(self, names: Sequence[str]) -> Texts:
        return Texts.from_names(names, self.phrase, self.length, self.position)

    def start(self, clip: CLIP) -> Tensor:
        """(P, D) token embeddings of the phrase's first tokens, or N(0, 0.02^2) without a phrase; fp32.

        With ``copies`` a random start for each: (C, P, D).
        """
        if not self.phrase:
            shape = (self.length, clip.transformer.width)
            return STD * torch.randn(*((self.copies, *shape) if self.copies else shape))
        texts = Texts.from_strings([self.phrase])
        if (found := int(texts.lengths[0]) - 2) < self.length:
            raise ValueError(
                f"CTX_INIT {self.phrase!r} has {found} tokens, fewer than the {self.length} context tokens"
            )
        check_vocabulary(clip.known_tokens, texts)
        ids = texts.ids[0, 1 : 1 + self.length].to(clip.token_embedding.weight.device)
        return clip.token_embedding(ids).detach().float().clone()


def random_prompts(depth: int, num_tokens: int, width: int) -> nn.ParameterList:
    """(P, D) prompts for ``depth`` layers, N(0, 0.02^2) each; ValueError for prompts of no tokens."""
    if depth and num_tokens < 1:
        raise ValueError(f"A prompt needs at least 1 token, but its length (N_CTX) is {num_tokens}")
    return nn.ParameterList(STD * torch.randn(num_tokens, width) for _ in range(depth))


def shared_plan(rows: Sequence[Tensor]) -> PromptPlan | None:
    """Prompts (P, D) of layers 1..J, each replacing the rows that its layer receives; None for J = 0."""
    if not len(rows):
        return None
    return PromptPlan(rows[0], {layer: LayerPrompt.shared(rows[layer]) for layer in range(1, len(rows))})


def check_depths(section: str, clip: CLIP, text_depth: int, vision_depth: int) -> None:
    """ValueError for prompts in more layers than an encoder has, in a ResNet, or in no layer at all."""
    if max(text_depth, vision_depth) < 1:
        raise ValueError(f"{section}: a prompt depth of at least 1 is needed")
    if vision_depth and not clip.has_vit:
        raise ValueError(
            f"{section}: prompts in the image encoder need a ViT, but the backbone is a ResNet; choose a ViT, or a"
            " method that prompts the text alone"
        )
    towers = {"text": (text_depth, "transformer"), "vision": (vision_depth, "visual.transformer")}
    for name, (depth, tower) in towers.items():
        if depth and depth > (layers := clip.get_submodule(tower).layers):
            raise ValueError(f"{section}: prompt depth {depth} exceeds the {layers} layers of the {name} encoder")
