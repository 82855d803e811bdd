"""The transformer of both encoders, and its one layer for all methods.

Prompts reach a layer as a ``LayerPrompt``, see ``clip/prompts.py``; what else a method changes as a ``LayerChange``.

Letters: B images or texts, T rows (tokens), D width, H heads, P prompt tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .changes import LayerChange, Views, linear
from .prompts import LayerPrompt, PromptPlan, residual_stream, write_slots

ALL_ROWS = slice(None)
Wanted = slice | Tensor  # rows: some in a row, or by their indices


class LayerNorm(nn.LayerNorm):
    """Computes in its weights' precision (fp32 also in a half-precision model, as in CLIP) whatever the input's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps).to(
            x.dtype
        )


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), written with SiLU: one fused kernel that keeps one tensor for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x) / 1.702


ACTIVATIONS = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention under ``nn.MultiheadAttention``'s parameter names, projections apart from attending."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"Width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, views: Views, change: LayerChange | None = None) -> Tensor:
        """What query, key and value are made of, (..., D) each -> (..., 3 D): the three side by side."""
        project = linear if change is None or change.qkv is None else change.qkv.project
        return project(views, self.in_proj_weight, self.in_proj_bias)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, D/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, T, H, D/H) -> (B, H, T, D/H)

    def forward(self, qkv: Tensor, read: Wanted = ALL_ROWS, causal: bool = False) -> Tensor:
        """Rows ``read`` of (B, T, 3 D) attend to all rows; returns (B, len(read), D)."""
        query, key, value = (self.split_heads(x) for x in qkv.chunk(3, dim=-1))  # (B, H, T, D/H) each
        out = F.scaled_dot_product_attention(query[:, :, read], key, value, is_causal=causal)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # (B, len(read), H, D/H) -> (B, len(read), D)


class ResidualAttentionBlock(nn.Module):
    """The transformer layer, for every method."""

    def __init__(self, width: int, heads: int, activation: str = "quick_gelu"):
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=ACTIVATIONS[activation](), c_proj=nn.Linear(4 * width, width)
            )
        )
        self.ln_2 = LayerNorm(width)

    def project(
        self, x: Tensor, prompt: LayerPrompt | None = None, start: int = 0, change: LayerChange | None = None
    ) -> Tensor:
        """Query, key and value of every row, (B, T, 3 D). Prompt rows are projected once and put in, not per image."""
        normed = self.ln_1(x)  # (B, T, D)
        qkv = self.attn.project((normed, normed, normed), change)  # (B, T, 3 D)
        if prompt is None:
            return qkv
        views = prompt.map(lambda rows: self.ln_1(rows.to(x.dtype)))
        rows = self.attn.project((views.query, views.key, views.value), change)  # (P, 3 D) or (B, P, 3 D)
        return write_slots(qkv, start, rows)

    def finish(self, x: Tensor, attended: Tensor, change: LayerChange | None = None) -> Tensor:
        """Y = R + attended; Y + MLP(LN2(Y)), and what is added of LN1(R)."""
        y = x + attended
        y = y + self.mlp(self.ln_2(y))
        return y if change is None or change.added is None else y + change.added(self.ln_1(x))

    def forward(
        self,
        x: Tensor,
        prompt: LayerPrompt | None = None,
        start: int = 0,
        read: Wanted = ALL_ROWS,
        causal: bool = False,
        change: LayerChange | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, len(read), D): only the rows ``read`` are computed, since only they are wanted."""
        qkv = self.project(x, prompt, start, change)
        x = residual_stream(x, prompt, start)
        return self.finish(x[:, read], self.attn(qkv, read, causal), change)


class Transformer(nn.Module):
    """A stack of blocks; ``causal`` for text."""

    def __init__(self, width: int, layers: int, heads: int, causal: bool = False, activation: str = "quick_gelu"):
        super().__init__()
        self.width, self.layers, self.causal = width, layers, causal
        self.resblocks = nn.Sequential(*(ResidualAttentionBlock(width, heads, activation) for _ in range(layers)))

    def forward(
        self,
        x: Tensor,
        prompts: Mapping[int, LayerPrompt] | None = None,
        start: int = 0,
        read: Wanted = ALL_ROWS,
        changes: Mapping[int, LayerChange] | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, len(read), D). Layer l writes ``prompts[l]`` into its rows from ``start`` on.

        With prompts behind all other rows (vision), a layer whose successor replaces them does not compute them.
        """
        prompts, changes = prompts or {}, changes or {}
        for layer, block in enumerate(self.resblocks):
            following = prompts.get(layer + 1)
            if layer == self.layers - 1:
                rows = read
            elif following is not None and following.residual is not None and not self.causal:
                rows = slice(start)
            else:
                rows = ALL_ROWS
            x = block(x, prompts.get(layer), start, rows, self.causal, changes.get(layer))
        return x

    def merge(self, plan: PromptPlan) -> PromptPlan:
        """The same with new weights made once, for evaluation: a pass then costs what it costs without changes."""
        blocks = self.resblocks
        merged = {layer: change.merged(blocks[layer].attn.in_proj_weight) for layer, change in plan.changes.items()}
        return replace(plan, changes=merged)
