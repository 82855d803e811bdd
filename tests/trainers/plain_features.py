"""Logits of methods that work on features of the frozen encoders; see ``plain.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.naive import encode_image

from .plain import Case, State, cosine_logits, handwritten, templates_of, unit, zeroshot_text


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
