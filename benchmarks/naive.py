"""The plain computation of prompted CLIP, as the CoOp family does it: what ``clip/`` must equal, and is timed against.

Every text is 77 rows long, every row of every layer is computed, prompts are put in anew for every text and image, and
a context per image means one pass over all texts per image. Nothing is shared with ``clip/text_encoder.py`` or with the
forward passes of ``clip/blocks.py`` and ``clip/model.py``: only weights are read, and the norms are called.

Letters: B images, C texts, T rows, P prompt tokens, D width, H heads, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.changes import Adapter, LayerChange
from clip.model import CLIP, QuickGELU, ResidualAttentionBlock
from clip.prompts import LayerPrompt, PerImage, PromptPlan
from clip.text import Texts

# (B, H, T, D/H) query, key, value and an additive mask (T, T) or None -> (B, H, T, D/H).
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(D/H) + mask) V, as written in Vaswani et al. 2017, eq. 1."""
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    return (scores if mask is None else scores + mask).softmax(dim=-1) @ value


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by PyTorch's fused kernel: what to time against."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def replace_rows(x: Tensor, start: int, rows: Tensor) -> Tensor:
    """Rep(X, P): rows start..start+P-1 of (B, T, D) become ``rows``, (P, D) or (B, P, D)."""
    rows = rows.to(x.dtype).expand(len(x), -1, -1)
    return torch.cat([x[:, :start], rows, x[:, start + rows.shape[1] :]], dim=1)


def weights(block: ResidualAttentionBlock, change: LayerChange | None) -> Tensor:
    """Of query, key and value: (3 D, D), W or W + scale B A. There is no dropout here."""
    own = block.attn.in_proj_weight
    if change is None or change.qkv is None:
        return own
    pair = change.qkv
    return torch.cat([w + pair.scale * b @ a for w, a, b in zip(own.chunk(3), pair.down, pair.up)]).to(own.dtype)


def project(block: ResidualAttentionBlock, views: Sequence[Tensor], change: LayerChange | None) -> list[Tensor]:
    """Q, K, V = LN1(view) W + b, from one input or from three."""
    weight, bias = weights(block, change), block.attn.in_proj_bias
    if views[0] is views[1] is views[2]:
        return list(F.linear(block.ln_1(views[0]), weight, bias).chunk(3, dim=-1))
    return [F.linear(block.ln_1(x), w, b) for x, w, b in zip(views, weight.chunk(3), bias.chunk(3))]


def mlp(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    hidden = F.linear(x, block.mlp.c_fc.weight, block.mlp.c_fc.bias)
    quick = isinstance(block.mlp.gelu, QuickGELU)
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
    return F.linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias)


def layer(
    block: ResidualAttentionBlock,
    x: Tensor,
    prompt: LayerPrompt | None,
    start: int,
    mask: Tensor | None,
    attend: Attend,
    change: LayerChange | None,
) -> Tensor:
    """One block on (B, T, D). Its prompts replace the rows from ``start`` on."""
    views = [x, x, x]
    if prompt is not None:
        if prompt.residual is not None:
            x = replace_rows(x, start, prompt.residual)
        if prompt.is_shared:
            views = [x if prompt.residual is prompt.query else replace_rows(x, start, prompt.query)] * 3
        else:
            views = [replace_rows(x, start, rows) for rows in (prompt.query, prompt.key, prompt.value)]
    heads = [t.unflatten(-1, (block.attn.heads, -1)).transpose(1, 2) for t in project(block, views, change)]
    attended = attend(*heads, mask).transpose(1, 2).flatten(2)
    y = x + F.linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)
    y = y + mlp(block, block.ln_2(y))
    return y if change is None or change.added is None else y + adapter(change.added, block.ln_1(x))


def adapter(added: Adapter, x: Tensor) -> Tensor:
    """scale W3 relu(W2 relu(W1 x + b1) + b2) + scale b3, for any number of maps."""
    (weight, bias), *others = added.maps
    x = F.linear(x, weight.to(x.dtype), bias.to(x.dtype))
    for weight, bias in others:
        x = F.linear(x.clamp(min=0), weight.to(x.dtype), bias.to(x.dtype))
    return added.scale * x


def run_layers(
    blocks: nn.Sequential,
    x: Tensor,
    prompts: Mapping[int, LayerPrompt],
    start: int,
    causal: bool,
    attend: Attend,
    changes: Mapping[int, LayerChange],
    entry: int | None = None,
) -> Tensor:
    """Layer ``entry`` inserts its rows behind the first one; they are replaced there."""
    mask = causal_mask(x) if causal else None
    for index, block in enumerate(blocks):
        if index == entry:
            rows, start = prompts[index].residual.to(x.dtype).expand(len(x), -1, -1), 1
            x = torch.cat([x[:, :1], rows, x[:, 1:]], dim=1)
            mask = causal_mask(x) if causal else None
        x = layer(block, x, prompts.get(index), start, mask, attend, changes.get(index))
    return x


def causal_mask(x: Tensor) -> Tensor:
    """(T, T), to be added, of (B, T, D)."""
    return torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)


def enter_first(plan: PromptPlan | None, enter: Callable[[Tensor], Tensor]) -> dict[int, LayerPrompt]:
    """The plan's layers, the raw prompts of layer 0 passed through the encoder's entrance."""
    layers = {} if plan is None else dict(plan.layers)
    if 0 in layers and plan.entry is None:
        layers[0] = layers[0].map(enter)
    return layers


def padded_ids(texts: Texts, length: int = 77) -> Tensor:
    """(C, length) token ids of ``Texts``, 0 behind EOS, -1-j for context vector j."""
    return F.pad(texts.ids, (0, length - texts.ids.shape[1]))


def encode_text(model: CLIP, ids: Tensor, plan: PromptPlan | None = None, attend: Attend = plain) -> Tensor:
    """(C, T <= 77) ids, -1-j for context vector j -> (C, E), raw; (B, C, E) for a context per image."""
    if plan is not None and isinstance(plan.input, PerImage):
        per_image = [replace(plan, input=context) for context in plan.input.rows]
        return torch.stack([encode_text(model, ids, one, attend) for one in per_image])
    positions = model.positional_embedding[: ids.shape[1]].to(model.dtype)
    x = model.token_embedding(ids.clamp(min=0)).to(model.dtype)
    if plan is not None and plan.length:
        context = plan.input.rows.to(model.dtype).expand(len(ids), -1, -1)
        text, place = (ids < 0).nonzero(as_tuple=True)
        x = x.index_put((text, place), context[text, -1 - ids[text, place]])
    count = 0 if plan is None else plan.length
    layers = enter_first(plan, lambda rows: rows.to(model.dtype) + positions[1 : 1 + count])
    changes, entry = (plan.changes, plan.entry) if plan else ({}, None)
    x = run_layers(model.transformer.resblocks, x + positions, layers, 1, True, attend, changes, entry)
    x = model.ln_final(x)
    eos = ids.argmax(dim=-1) + (0 if entry is None else plan.deep_length)
    return x[torch.arange(len(ids), device=x.device), eos] @ model.text_projection


def encode_image(model: CLIP, image: Tensor, plan: PromptPlan | None = None, attend: Attend = plain) -> Tensor:
    """(B, 3, H, W) -> (B, E), raw; the ViT with prompts behind its patches."""
    return image_rows(model, image, plan, attend)[:, 0] @ model.visual.proj


def image_rows(model: CLIP, image: Tensor, plan: PromptPlan | None = None, attend: Attend = plain) -> Tensor:
    """(B, 3, H, W) -> (B, T, D) behind ``ln_post``. Inserted rows stand behind the first, others behind the patches."""
    vit = model.visual
    x = F.conv2d(image.to(model.dtype), vit.conv1.weight, stride=vit.conv1.stride).flatten(2).transpose(1, 2)
    x = torch.cat([vit.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    x = x + vit.positional_embedding.to(x.dtype)
    start = x.shape[1]
    if plan is not None and plan.length:
        x = torch.cat([x, plan.input.rows.to(x.dtype).expand(len(x), -1, -1)], dim=1)
    layers = enter_first(plan, lambda rows: vit.ln_pre(rows.to(x.dtype)))
    changes, entry = (plan.changes, plan.entry) if plan else ({}, None)
    x = run_layers(vit.transformer.resblocks, vit.ln_pre(x), layers, start, False, attend, changes, entry)
    return vit.ln_post(x)


def logits(model: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
    """exp(logit_scale) cos(image, text): (B, E) with (C, E) or (B, C, E) -> (B, C)."""
    image_features = image_features / image_features.norm(dim=-1, keepdim=True)
    text_features = text_features / text_features.norm(dim=-1, keepdim=True)
    if text_features.dim() == 2:
        return model.logit_scale.exp() * image_features @ text_features.t()
    return model.logit_scale.exp() * torch.stack([texts @ image for image, texts in zip(image_features, text_features)])
