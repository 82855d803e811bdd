"""The text tower without waste, and exactly: no row is computed twice, or only to be thrown away.

Under a causal mask a row depends on earlier rows only. Hence (numbers agree with the plain pass, see ``tests/clip``):

1. a text ends at its EOS row, which is the one that is read;
2. the rows that all texts begin with (SOS, context, fixed words) are the same in every layer: they run once as the
   *prefix*, and the texts' own rows, the *suffixes*, attend to the prefix's keys and values;
3. of the last layer only the EOS rows are computed;
4. suffixes are packed row behind row, sorted by length: linear layers see one (R, D) matrix, and a *bucket* of c
   suffixes of s rows is a (c, s, D) view of it for attention. A bucket takes in shorter suffixes, filled up with rows
   behind their EOS, only where that costs less than another bucket;
5. with a memory budget the suffixes run in chunks that are recomputed in the backward pass.

Prompts that are one per class are rows of the suffixes, in every layer that has some (TCP); SOS is the whole prefix.
Rows that are inserted behind SOS belong to the prefix from their layer on, where p then counts them, too (MMRL).
Changes of the layers themselves (LoRA, MMA) are the same for all texts; dropout of the prefix's rows is drawn once.

Letters: C texts, M of them in a chunk, G = 1 or B (a context per image of B), p prefix rows, R rows that are embedded,
such as a chunk's suffixes, S context slots among them, c suffixes of s rows in a bucket, T tokens that a text may have,
P context tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .blocks import Attention, Transformer
from .packing import Bucket, Chunk, Packing, Rows
from .prompts import InputRows, PerClass, PromptPlan, insert_rows, raw_first_layer, residual_stream
from .text import Texts

NO_PROMPTS = PromptPlan()


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """The parts of a CLIP that a text passes through up to ``ln_final``."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor  # (T, D)
    transformer: Transformer
    dtype: torch.dtype  # of the activations between layers

    def eos_rows(self, texts: Texts, plan: PromptPlan | None, memory_gb: float | None) -> Tensor:
        """Of the last layer: (C, D), or (B, C, D) for one context per image. ValueError for a plan that cannot be."""
        if plan is not None:
            plan.check(self.transformer.width, self.transformer.layers)
        plan = plan or NO_PROMPTS
        check_slots(texts, plan)
        groups = len(plan.input.rows) if plan.per_image else 1
        layout = texts.layout(self.packing(isinstance(plan.input, PerClass), groups, memory_gb))
        prefix = [keys_values.expand(groups, -1, -1) for keys_values in self.run_prefix(layout.prefix, plan)]
        rows = torch.cat(self.run_chunks(layout.chunks, plan, prefix), dim=1)  # (G, C, D), as they are packed
        rows = rows[:, layout.order]  # (G, C, D), as the texts are given
        return rows if plan.per_image else rows[0]  # (B, C, D) or (C, D)

    def packing(self, per_class: bool, groups: int, memory_gb: float | None) -> Packing:
        """How texts are packed; in training and in evaluation not the same."""
        max_rows = None if memory_gb is None else rows_within(memory_gb, self, groups)
        device = self.positional_embedding.device
        return Packing(device, per_class, max_rows, bucket_cost(self, device))

    def embed(self, rows: Rows, context: InputRows) -> Tensor:
        """Token plus positional embeddings, context vectors in their slots: (1 or G, R, D)."""
        x = self.token_embedding(rows.ids).to(self.dtype)[None]  # (1, R, D)
        if len(rows.slots):
            vectors = context.at(rows.vectors, rows.classes).to(self.dtype)  # (G, S, D)
            x = x.expand(len(vectors), -1, -1).index_copy(1, rows.slots, vectors)  # (G, R, D)
        return x + self.positional_embedding[rows.positions].to(self.dtype)

    def run_prefix(self, rows: Rows, plan: PromptPlan) -> list[Tensor]:
        """The common rows, through all layers: the keys and values of each, (1 or G, p, 2 D)."""
        x = self.embed(rows, plan.input)  # (1 or G, p, D)
        positions = self.positional_embedding[1 : 1 + plan.length].to(x.dtype)  # (P, D)
        is_own = isinstance(plan.input, PerClass)
        layers = {} if is_own else raw_first_layer(plan, lambda views: views.to(x.dtype) + positions)
        keys_values, entry = [], plan.entry
        for i, block in enumerate(self.transformer.resblocks):
            if i == entry:
                x = insert_rows(x, 1, layers[i].residual)  # (1 or G, p + P, D)
            change = plan.changes.get(i)
            qkv = block.project(x, layers.get(i), 1, change)  # (1 or G, p, 3 D)
            keys_values.append(qkv[..., self.transformer.width :])  # (1 or G, p, 2 D)
            if i + 1 < self.transformer.layers:
                x = block.finish(residual_stream(x, layers.get(i), start=1), block.attn(qkv, causal=True), change)
        return keys_values

    def run_chunks(self, chunks: Sequence[Chunk], plan: PromptPlan, prefix: Sequence[Tensor]) -> list[Tensor]:
        """EOS rows of each chunk, (G, M, D); with gradients, chunks are recomputed in the backward pass."""
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return [self.run_suffixes(chunk, plan, prefix) for chunk in chunks]
        how = {"use_reentrant": False, "preserve_rng_state": plan.is_random}
        return [checkpoint(self.run_suffixes, chunk, plan, prefix, **how) for chunk in chunks]

    def run_suffixes(self, chunk: Chunk, plan: PromptPlan, prefix: Sequence[Tensor]) -> Tensor:
        """The packed rows of a chunk, through all layers: the EOS rows of the last one, (G, M, D)."""
        x = self.embed(chunk.rows, plan.input)  # (1 or G, R, D)
        own = plan.layers if isinstance(plan.input, PerClass) else {}
        for i, (block, keys_values) in enumerate(zip(self.transformer.resblocks, prefix)):
            if i in own:
                vectors = PerClass(own[i].query).at(chunk.rows.vectors, chunk.rows.classes)  # (1, S, D)
                x = x.index_copy(1, chunk.rows.slots, vectors.to(x.dtype))  # (1, R, D)
            last = i + 1 == self.transformer.layers
            change = plan.changes.get(i)
            qkv = block.project(x, change=change)  # (1 or G, R, 3 D)
            attended = attend(block.attn, qkv, keys_values, chunk, last)  # (G, R or M, D)
            x = block.finish(x[:, chunk.eos] if last else x, attended, change)  # (G, R or M, D)
        return x


def attend(attn: Attention, qkv: Tensor, prefix: Tensor, chunk: Chunk, last: bool) -> Tensor:
    """Causal attention of every suffix to the prefix and itself.

    qkv: (1 or G, R, 3 D) of the suffixes. prefix: (G, p, 2 D) keys and values. Returns (G, R, D); with ``last`` only
    the EOS rows, (G, M, D).
    """
    width = prefix.shape[-1] // 2
    queries, own = qkv.expand(len(prefix), -1, -1).split([width, 2 * width], dim=-1)  # (G, R, D) and (G, R, 2 D)
    queries = queries[:, chunk.eos] if last else queries  # (G, R or M, D)
    out = [attend_bucket(attn, queries, own, prefix, bucket, last) for bucket in chunk.buckets]
    return attn.out_proj(torch.cat(out, dim=1))  # (G, R or M, D)


def attend_bucket(attn: Attention, queries: Tensor, own: Tensor, prefix: Tensor, bucket: Bucket, last: bool) -> Tensor:
    """queries, own keys and values, prefix: see ``attend``. Returns (G, c s, D); with ``last`` (G, c, D)."""
    groups, count = len(prefix), bucket.count
    queries = queries[:, bucket.texts if last else bucket.rows]  # (G, c s, D); s = 1 with ``last``
    query = queries.unflatten(1, (count, -1)).flatten(0, 1)  # (G c, s, D)
    own = own[:, bucket.rows].unflatten(1, (count, -1))  # (G, c, s, 2 D)
    common = prefix[:, None].expand(-1, count, -1, -1)  # (G, c, p, 2 D)
    key, value = torch.cat([common, own], dim=2).flatten(0, 1).chunk(2, dim=-1)  # (G c, p + s, D) each
    query, key, value = (attn.split_heads(x) for x in (query, key, value))  # (G c, H, s or p + s, D/H)
    mask = bucket.mask_of(last, groups, key.shape[-2])
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).reshape(groups, -1, prefix.shape[-1] // 2)  # (G c, s, H, D/H) -> (G, c s, D)


def bucket_cost(encoder: TextEncoder, device: torch.device) -> float:
    """Rows whose linear layers, 24 D^2 operations a row, take as long as launching one more bucket's attention."""
    operations = {"cpu": 5e6, "cuda": 5e9}.get(device.type, 5e9)  # in about 0.1 ms, about 50 us
    return operations / (24 * encoder.transformer.width**2)


def rows_within(memory_gb: float, encoder: TextEncoder, groups: int) -> int:
    """Suffix rows whose activations fit the budget: about 24 D numbers a row and layer are kept for the backward pass.

    Without gradients only one layer's are alive at a time. Measured in ``benchmarks/memory.py``.
    """
    layers = encoder.transformer.layers if torch.is_grad_enabled() else 1
    row_bytes = 24 * encoder.transformer.width * layers * groups * torch.finfo(encoder.dtype).bits // 8
    return max(1, int(memory_gb * 2**30 / row_bytes))


def check_slots(texts: Texts, plan: PromptPlan) -> None:
    """ValueError if a plan does not fit the texts' context slots."""
    if texts.num_ctx != plan.length:
        raise ValueError(f"Texts with {texts.num_ctx} context slots do not take {plan.length} context tokens")
    per_class = isinstance(plan.input, PerClass)
    if per_class and len(plan.input.rows) != len(texts):
        raise ValueError(f"{len(plan.input.rows)} contexts, one per class, do not fit {len(texts)} texts")
    if not plan.layers:
        return
    if per_class:
        shape = plan.input.rows.shape  # (C, P, D)
        if 0 in plan.layers or any(t is not p.query or t.shape != shape for p in plan.layers.values() for t in p.views):
            raise ValueError(
                "Deep text prompts need a context that all classes share, or are one per class (C, P, D) as the context"
                " is, from layer 1 on, the same for query, key, value and residual"
            )
        return
    first = texts.ids[:, 1 : 1 + plan.length] == -1 - torch.arange(plan.length)  # (C, P)
    if not first.all():
        raise ValueError("Deep text prompts need a context that comes before the class name, or prompts per class")
