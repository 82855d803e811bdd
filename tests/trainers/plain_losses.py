"""Loss terms from a method's own logits, and gradients that are more than those of their sum; see ``plain.py``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.naive import encode_image, encode_text

from .plain import (
    Case,
    State,
    Terms,
    class_ids,
    coop_plan,
    cosine_logits,
    cross_entropy,
    deep_features,
    handwritten,
    independent_prompts,
    kl_divergence,
    sampled,
    sampled_cross_entropy,
    tcp_plan,
    templates_of,
    unit,
    zeroshot_logits,
    zeroshot_text,
)


def default_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    return {"ce_loss": cross_entropy(logits, label)}


def default_gradients(case: Case, terms: Terms, learned: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(sum(terms.values()), learned, allow_unused=True)


def pomp_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """Over all classes, or over the drawn ones with the correction."""
    chosen = case.options
    if not chosen.UPDATE_CLASS_NUM:
        return default_loss(case, state, image, logits, label, drawn)
    correction = chosen.CORRECTION_LOG if chosen.LOCAL_CORRECTION else "none"
    return {"ce_loss": sampled_cross_entropy(logits, label, drawn, correction)}


def rpp_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """And lambda T^2 KL(teacher || student), over all classes or those that are drawn."""
    chosen, terms = case.options, pomp_loss(case, state, image, logits, label, drawn)
    if chosen.LAMBDA:
        teacher = zeroshot_logits(case.clip, image, case.names, templates_of(case, chosen.TEACHER.TEMPLATES))
        if chosen.UPDATE_CLASS_NUM:
            teacher, logits = (sampled(z, label, drawn)[0] for z in (teacher, logits))
        terms["kd_loss"] = chosen.LAMBDA * kl_divergence(teacher, logits, chosen.TEMPERATURE)
    return terms


def promptsrc_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """And distances to the frozen features, w |f - f0|_1 as a mean over all numbers, and KL(frozen || own) / (B C).

    The frozen text feature is the mean over templates of raw features, normalised.
    """
    chosen, clip = case.options, case.clip
    own = [unit(raw) for raw in deep_features(case, image, *independent_prompts(state))]
    text = torch.stack(zeroshot_text(clip, case.names, templates_of(case, chosen.TEMPLATES))).mean(0)
    frozen = [unit(encode_image(clip, image)), unit(text)]
    far = [sum((a - b).abs().sum() for a, b in zip(*pair)) / pair[0].numel() for pair in zip(own, frozen)]
    return {
        "ce_loss": cross_entropy(logits, label),
        "text_loss": chosen.TEXT_LOSS_WEIGHT * far[1],
        "image_loss": chosen.IMAGE_LOSS_WEIGHT * far[0],
        "kd_loss": kl_divergence(cosine_logits(clip, *frozen), logits, 1.0) / len(case.names),
    }


def prograd_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """And -T^2 sum_c p0_c log p_c, mean over images: softmax at temperature T of zero-shot CLIP's and of own logits."""
    temperature = case.options.TEMPERATURE
    frozen = zeroshot_logits(case.clip, image, case.names, [case.template])
    p, q = ((z / temperature).exp() for z in (frozen, logits))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return {"ce_loss": cross_entropy(logits, label), "kd_loss": -(temperature**2) * (p * q.log()).sum(1).mean()}


def kgcoop_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """And W (1 - mean_c cos(t_c, t0_c)), t0 of one hand-written template or of several."""
    chosen = case.options
    ids = class_ids(case.names, state["ctx"].shape[-2], position=chosen.CLASS_TOKEN_POSITION)
    return {
        "ce_loss": cross_entropy(logits, label),
        "kg_loss": chosen.W * away(case, encode_text(case.clip, ids, coop_plan(state["ctx"]))),
    }


def away(case: Case, text: Tensor) -> Tensor:
    """1 - mean_c cos(t_c, t0_c) of raw class features (C, E)."""
    return 1 - sum(a @ b for a, b in zip(unit(text), handwritten(case))) / len(text)


def tcp_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """As KgCoOp's."""
    text = encode_text(case.clip, *tcp_plan(case, state))
    return {"ce_loss": cross_entropy(logits, label), "kg_loss": case.options.W * away(case, text)}


def clap_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """And mean_c lambda_c |x_c|^2."""
    far = [trust * (x * x).sum() for trust, x in zip(case.fixed["trust"], state["residual"])]
    return {"ce_loss": cross_entropy(logits, label), "near_loss": sum(far) / len(far)}


def promptkd_loss(case: Case, state: State, image: Tensor, logits: Tensor, label: Tensor, drawn: Tensor) -> Terms:
    """W T^2 KL(teacher || student) / (B C), and nothing of labels."""
    chosen = case.options
    teacher = zeroshot_logits(case.clip, image, case.names, templates_of(case, chosen.TEACHER.TEMPLATES))
    return {"kd_loss": chosen.KD_WEIGHT * kl_divergence(teacher, logits, chosen.TEMPERATURE) / len(case.names)}


def prograd_gradients(case: Case, terms: Terms, learned: Sequence[Tensor]) -> Sequence[Tensor]:
    """G_d where it agrees with G_g, else G_d - lambda (G_d . G_g / |G_g|^2) G_g."""
    found, weight = [], case.options.LAMBDA
    for tensor in learned:
        both = (terms["ce_loss"], terms["kd_loss"])
        domain, general = (torch.autograd.grad(term, tensor, retain_graph=True)[0] for term in both)
        inner = float((domain * general).sum())
        found.append(domain if inner >= 0 else domain - weight * inner / float(general.square().sum()) * general)
    return found
