"""Logits of methods that work on features of the frozen encoders; see ``plain.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.naive import encode_image

from .plain import (
    Case,
    State,
    cosine_logits,
    deep_features,
    handwritten,
    independent_prompts,
    templates_of,
    unit,
    zeroshot_text,
)


def tipadapter(case: Case, state: State, image: Tensor) -> Tensor:
    """s v w_c, and alpha exp(-beta (1 - v f)) more for each training image f of class c."""
    v = unit(encode_image(case.clip, image))
    alpha, beta = case.fixed["strength"].to(v)
    rows = []
    for feature, row in zip(v, case.clip.logit_scale.exp() * v @ handwritten(case).t()):
        found = list(row)
        for key, label in zip(state["keys"], case.fixed["label"].tolist()):
            found[int(label)] = found[int(label)] + alpha * (-beta * (1 - feature @ key)).exp()
        rows.append(torch.stack(found))
    return torch.stack(rows)


tipadapterf = tipadapter


def clipadapter(case: Case, state: State, image: Tensor) -> Tensor:
    """r relu(W2 relu(W1 v)) + (1 - r) v of features as they leave CLIP."""
    raw, ratio = encode_image(case.clip, image), case.options.RATIO
    adapted = (raw @ state["fc.0.weight"].t()).clamp(min=0)
    adapted = (adapted @ state["fc.2.weight"].t()).clamp(min=0)
    return cosine_logits(case.clip, ratio * adapted + (1 - ratio) * raw, handwritten(case))


def linearprobe(case: Case, state: State, image: Tensor) -> Tensor:
    """W v + b of features as they leave CLIP."""
    rows = encode_image(case.clip, image)
    return torch.stack([(state["weight"] * v).sum(1) + state["bias"] for v in rows])


def taskres(case: Case, state: State, image: Tensor) -> Tensor:
    """t0 + alpha x, t0 the mean over templates of features as they leave CLIP."""
    means = class_means(case)
    text = torch.stack([base + case.options.ALPHA * x for base, x in zip(means, state["residual"])])
    return cosine_logits(case.clip, encode_image(case.clip, image), text)


def zslp(case: Case, state: State, image: Tensor) -> Tensor:
    """t0 + x."""
    text = torch.stack([base + x for base, x in zip(class_means(case), state["residual"])])
    return cosine_logits(case.clip, encode_image(case.clip, image), text)


clap = zslp


def class_means(case: Case) -> Tensor:
    """t0, (C, E), raw."""
    return torch.stack(zeroshot_text(case.clip, case.names, templates_of(case, case.options.TEMPLATES))).mean(0)


def promptkd(case: Case, state: State, image: Tensor) -> Tensor:
    """s v^ t^ of the teacher's t^; v = W2 relu(g (h - mean h) / sd h + b) + b2, h = W1 of the prompted features, mean
    and sd over the batch."""
    raw = deep_features(case, image, *independent_prompts(state))[0]
    one, norm, two = (f"VPT_image_trans.conv1.{place}" for place in (0, 1, 3))
    h = raw @ state[f"{one}.weight"].t()
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt()
    h = (state[f"{norm}.weight"] * h + state[f"{norm}.bias"]).clamp(min=0)
    templates = templates_of(case, case.options.TEACHER.TEMPLATES)
    text = torch.stack([unit(one) for one in zeroshot_text(case.clip, case.names, templates)]).mean(0)
    return cosine_logits(case.clip, h @ state[f"{two}.weight"].t() + state[f"{two}.bias"], text)
