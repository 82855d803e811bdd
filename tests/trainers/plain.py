"""Every method a second time: slow, without sharing, straight from the equations; ``benchmarks/naive.py`` encodes.

Tests find a method's by its name in lower case (``PLAIN``): ``coop`` gives the logits, ``coop_loss`` the loss terms
where they are more than a cross-entropy, ``coop_gradients`` the gradients where they are more than those of the terms'
sum. Here: what they share, and logits under prompts. ``plain_features.py``: logits of methods on features;
``plain_changes.py``: of those that change layers; ``plain_losses.py``: the rest. Learnable tensors come by their names
in the published checkpoints. Letters: B images, C classes, T tokens of a padded text, P prompt tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.naive import encode_image, encode_text
from clip.model import CLIP
from clip.prompts import LayerPrompt, PerClass, PromptPlan
from clip.simple_tokenizer import SimpleTokenizer

State = Mapping[str, Tensor]
Terms = dict[str, Tensor]
PHRASE = "a photo of a"
encode = SimpleTokenizer().encode
SOS, EOS = 49406, 49407
CONTEXT_LENGTH = 24  # of the small CLIP: the plain computation pads every text to it


@dataclass(frozen=True)
class Case:
    """A method's options and fixed tensors on a frozen CLIP, class names, and the data set's own templates: one, and
    all."""

    clip: CLIP
    options: Any
    names: Sequence[str]
    template: str
    ensemble: Sequence[str]
    fixed: Mapping[str, Tensor]


def class_ids(names: Sequence[str], num_ctx: int, fixed: str = "", position: str = "end") -> Tensor:
    """(C, T): SOS, context slots (-1, -2, ...), fixed words, name, ".", EOS; or the slots around or behind the name."""
    slots = [-1 - j for j in range(num_ctx)]
    rows = torch.zeros(len(names), CONTEXT_LENGTH, dtype=torch.long)
    for row, name in zip(rows, names):
        words = encode(name.replace("_", " "))
        half = num_ctx // 2
        middle = {
            "end": slots + encode(fixed) + words,
            "middle": slots[:half] + words + slots[half:],
            "front": words + slots,
        }[position]
        ids = [SOS, *middle, *encode("."), EOS]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def cosine_logits(clip: CLIP, image: Tensor, text: Tensor) -> Tensor:
    """s v t^T of raw features (B, E) and (C, E)."""
    return clip.logit_scale.exp() * unit(image) @ unit(text).t()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean of log sum_j exp z_j - z_y."""
    own = torch.stack([row[y] for row, y in zip(logits, label)])
    return (logits.exp().sum(1).log() - own).mean()


def coop(case: Case, state: State, image: Tensor) -> Tensor:
    """One context, or one per class."""
    clip, context = case.clip, state["ctx"]
    ids = class_ids(case.names, context.shape[-2], position=case.options.CLASS_TOKEN_POSITION)
    return cosine_logits(clip, encode_image(clip, image), encode_text(clip, ids, coop_plan(context)))


def coop_plan(context: Tensor) -> PromptPlan:
    return PromptPlan(PerClass(context) if context.dim() == 3 else context)


pomp = prograd = kgcoop = coop


def cocoop(case: Case, state: State, image: Tensor) -> Tensor:
    """Image by image: the context moves by W2 relu(W1 v + b1) + b2."""
    clip, ids, rows = case.clip, class_ids(case.names, len(state["ctx"])), []
    for one in image:
        feature = unit(encode_image(clip, one[None]))[0]
        hidden = (state["meta_net.linear1.weight"] @ feature + state["meta_net.linear1.bias"]).clamp(min=0)
        shift = state["meta_net.linear2.weight"] @ hidden + state["meta_net.linear2.bias"]
        text = encode_text(clip, ids, PromptPlan(torch.stack([vector + shift for vector in state["ctx"]])))
        rows.append(cosine_logits(clip, feature[None], text)[0])
    return torch.stack(rows)


def deep_ids(case: Case, length: int) -> Tensor:
    """What stays of "a photo of a" behind a context of some tokens: everything from the length on, up to 4."""
    return class_ids(case.names, length, " ".join(PHRASE.split()[length:]) if length <= 4 else "")


def deep_features(case: Case, image: Tensor, text: Sequence[Tensor], vision: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Raw features with prompts in layers 1..J of each encoder, none for an empty sequence."""
    plans = [
        PromptPlan(rows[0], {i: LayerPrompt.shared(rows[i]) for i in range(1, len(rows))}) if len(rows) else None
        for rows in (text, vision)
    ]
    ids = deep_ids(case, len(text[0]) if len(text) else 0)
    return encode_image(case.clip, image, plans[1]), encode_text(case.clip, ids, plans[0])


def independent_prompts(state: State) -> tuple[list[Tensor], list[Tensor]]:
    """Text and vision prompts by the keys that are there."""
    text = [state["prompt_learner.ctx"]] if "prompt_learner.ctx" in state else []
    vision = [state["image_encoder.VPT"]] if "image_encoder.VPT" in state else []
    for rows, encoder in ((text, "text_encoder"), (vision, "image_encoder")):
        while (key := f"{encoder}.transformer.resblocks.{len(rows)}.VPT_shallow") in state:
            rows.append(state[key])
    return text, vision


def ivlp(case: Case, state: State, image: Tensor) -> Tensor:
    """Prompts of each encoder, independent of one another."""
    return cosine_logits(case.clip, *deep_features(case, image, *independent_prompts(state)))


vpt = promptsrc = ivlp


def maple(case: Case, state: State, image: Tensor) -> Tensor:
    """Vision prompt j = W_j (text prompt j) + b_j, one map for all layers if unified."""
    state = {key.removeprefix("prompt_learner."): value for key, value in state.items()}
    text = [state["ctx"]]
    while (key := f"compound_prompts_text.{len(text) - 1}") in state:
        text.append(state[key])
    vision = []
    for j, rows in enumerate(text):
        name = "proj" if case.options.UNIFIED or j == 0 else f"compound_prompt_projections.{j - 1}"
        vision.append(rows @ state[f"{name}.weight"].t() + state[f"{name}.bias"])
    return cosine_logits(case.clip, *deep_features(case, image, text, vision))


def rpp_plan(state: State, encoder: str, qkv: str, residual: str) -> PromptPlan | None:
    """Each layer's three views; R = X ("carry") or R = Rep(X, P_q) ("query")."""
    views = {"qkv": ("query", "key", "value"), "kv": ("key", "key", "value"), "shared": ("prompt",) * 3}[qkv]
    layers: dict[int, LayerPrompt] = {}
    while f"{encoder}.{views[0]}.{len(layers)}" in state:
        query, key, value = (state[f"{encoder}.{view}.{len(layers)}"] for view in views)
        layers[len(layers)] = LayerPrompt(query, key, value, query if residual == "query" else None)
    return PromptPlan(layers[0].query, layers) if layers else None


def rpp(case: Case, state: State, image: Tensor) -> Tensor:
    """The student."""
    form = (case.options.QKV, case.options.RESIDUAL)
    text, vision = (rpp_plan(state, encoder, *form) for encoder in ("text", "vision"))
    ids = deep_ids(case, text.length if text else 0)
    return cosine_logits(case.clip, encode_image(case.clip, image, vision), encode_text(case.clip, ids, text))


def sampled(logits: Tensor, label: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (B, C) the own class' and the drawn ones', 1e6 less where these are the own class; and how often."""
    rows, hits = [], []
    for z, y in zip(logits, label):
        negatives = torch.stack([z[j] - 1e6 if j == y else z[j] for j in drawn])
        rows.append(torch.cat([z[y][None], negatives]))
        hits.append(sum(int(j == y) for j in drawn))
    return torch.stack(rows), torch.tensor(hits)


def correct(logits: Tensor, hits: Tensor, num_classes: int, natural: bool = False) -> Tensor:
    """Add log(N - 1) - log(K - 1 - r) to every negative; base ten as published, or natural."""
    log = torch.log if natural else torch.log10
    left = (logits.shape[1] - 1 - hits).clamp(min=1).to(logits.dtype)
    shift = log(torch.tensor(num_classes - 1, dtype=logits.dtype)) - log(left)
    return torch.cat([logits[:, :1], logits[:, 1:] + shift[:, None]], dim=1)


def sampled_cross_entropy(logits: Tensor, label: Tensor, drawn: Tensor, correction: str) -> Tensor:
    """Cross-entropy over the own class, column 0, and the drawn ones. correction: log10, ln or none."""
    chosen, hits = sampled(logits, label, drawn)
    if correction != "none":
        chosen = correct(chosen, hits, logits.shape[1], correction == "ln")
    return cross_entropy(chosen, torch.zeros_like(label))


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 sum_c p_c (log p_c - log q_c), mean over images; p, q the softmax at temperature T; 0 log 0 = 0."""
    total = torch.zeros((), dtype=student.dtype)
    for z_t, z_s in zip(teacher / temperature, student / temperature):
        p, q = (z_t - z_t.max()).exp(), (z_s - z_s.max()).exp()
        p, q = p / p.sum(), q / q.sum()
        kept = p > 0
        total = total + (p[kept] * (p[kept].log() - q[kept].log())).sum()
    return temperature**2 * total / len(student)


def token_rows(names: Sequence[str], template: str) -> Tensor:
    """(C, T) of a hand-written template."""
    ids = torch.zeros(len(names), CONTEXT_LENGTH, dtype=torch.long)
    for row, name in zip(ids, names):
        tokens = [SOS, *encode(template.format(name.replace("_", " "))), EOS]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def zeroshot_text(clip: CLIP, names: Sequence[str], templates: Sequence[str]) -> list[Tensor]:
    """Raw class features (C, E) of each template."""
    return [encode_text(clip, token_rows(names, template)) for template in templates]


def zeroshot_logits(clip: CLIP, image: Tensor, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Features of each template normalised, averaged, normalised."""
    text = torch.stack([unit(features) for features in zeroshot_text(clip, names, templates)]).mean(0)
    return cosine_logits(clip, encode_image(clip, image), text)


def zeroshotclip(case: Case, state: State, image: Tensor) -> Tensor:
    return zeroshot_logits(case.clip, image, case.names, [case.template])


def zeroshotclip2(case: Case, state: State, image: Tensor) -> Tensor:
    return zeroshot_logits(case.clip, image, case.names, case.ensemble)


def templates_of(case: Case, chosen: str) -> Sequence[str]:
    return {"dataset": [case.template], "ensemble": case.ensemble}.get(chosen, [chosen])


def handwritten(case: Case) -> Tensor:
    """t0, (C, E): of the templates that the option names, normalised, averaged, normalised."""
    features = zeroshot_text(case.clip, case.names, templates_of(case, case.options.TEMPLATES))
    return unit(torch.stack([unit(one) for one in features]).mean(0))


def tcp_plan(case: Case, state: State) -> tuple[Tensor, PromptPlan]:
    """Texts, and their plan: class by class, W2 g(W1 t0 + b1) + b2 in one layer, g(x) = x sigmoid(1.702 x)."""
    chosen, ctx = case.options, state["ctx"]
    rows = []
    for feature in handwritten(case):
        hidden = state["meta_net.linear1.weight"] @ feature + state["meta_net.linear1.bias"]
        hidden = hidden * (1.702 * hidden).sigmoid()
        rows.append((state["meta_net.linear2.weight"] @ hidden + state["meta_net.linear2.bias"]).view(ctx.shape))
    ids = torch.zeros(len(case.names), CONTEXT_LENGTH, dtype=torch.long)
    for row, name in zip(ids, case.names):
        words = encode(chosen.TEXT.format(name.replace("_", " ")))
        tokens = [SOS, *(-1 - j for j in range(len(ctx))), *words, EOS]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids, PromptPlan(ctx, {chosen.LAYER - 1: LayerPrompt.shared(torch.stack(rows))})


def tcp(case: Case, state: State, image: Tensor) -> Tensor:
    clip = case.clip
    return cosine_logits(clip, encode_image(clip, image), encode_text(clip, *tcp_plan(case, state)))
