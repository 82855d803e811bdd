"""MMRL from its equations; see ``plain.py``."""

from __future__ import annotations

from torch import Tensor

from benchmarks.naive import encode_image, encode_text, image_rows
from clip.prompts import PromptPlan

from .plain import Case, State, Terms, cosine_logits, cross_entropy, token_rows, unit, zeroshot_text


def rows(case: Case, state: State, letter: str, layers: int) -> PromptPlan:
    """Layer l of an encoder has tokens A_l R + b_l, one by one, from the first to its end."""
    tokens, name = "representation_learner.compound_rep_tokens", f"compound_rep_tokens_r2{letter}proj"
    found = {}
    for index, layer in enumerate(range(case.options.FIRST_LAYER - 1, layers)):
        weight, bias = (state[f"representation_learner.{name}.{index}.{part}"] for part in ("weight", "bias"))
        found[layer] = state[tokens] @ weight.t() + bias
    return PromptPlan.inserted(found)


def features(case: Case, state: State, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Raw: of [CLS], (B, E); the mean of the tokens behind the norm times P_r, (B, E); of the texts, (C, E)."""
    clip = case.clip
    own = image_rows(clip, image, rows(case, state, "v", clip.visual.transformer.layers))
    tokens = own[:, 1 : 1 + case.options.N_REP_TOKENS].mean(1)
    ids = token_rows(case.names, case.template)
    text = encode_text(clip, ids, rows(case, state, "t", clip.transformer.layers))
    return own[:, 0] @ clip.visual.proj, tokens @ state["image_encoder.proj_rep"], text


def both_logits(case: Case, state: State, image: Tensor) -> tuple[Tensor, Tensor]:
    first, second, text = features(case, state, image)
    return cosine_logits(case.clip, first, text), cosine_logits(case.clip, second, text)


def mmrl(case: Case, state: State, image: Tensor) -> Tensor:
    """Of the classes of the training: mixed, unless an option says that they never are."""
    first, second = both_logits(case, state, image)
    share = 1.0 if case.options.MIX == "never" else case.options.ALPHA
    return share * first + (1 - share) * second


def mmrl_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    chosen, (first, second) = case.options, both_logits(case, state, image)
    pairs = {
        "image_loss": (features(case, state, image)[0], encode_image(case.clip, image)),
        "text_loss": (features(case, state, image)[2], zeroshot_text(case.clip, case.names, [case.template])[0]),
    }
    return {
        "ce_loss": chosen.ALPHA * cross_entropy(first, label),
        "rep_loss": (1 - chosen.ALPHA) * cross_entropy(second, label),
        **{
            name: chosen.REG_WEIGHT * (1 - sum(a @ b for a, b in zip(unit(one), unit(other))) / len(one))
            for name, (one, other) in pairs.items()
        },
    }
