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

Letters: C texts, G = 1 or B (a context per image), p prefix rows, R suffix rows, P context tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .packing import Chunk, Layout, Rows, make_layout
from .prompts import PromptPlan, raw_first_layer, write_slots
from .simple_tokenizer import tokenizer
from .transfer import Tree, to_device

if TYPE_CHECKING:
    from .model import CLIP, Attention

CONTEXT_LENGTH = 77
CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


class Packing(NamedTuple):
    """What a layout depends on, besides the texts; see ``make_layout``."""

    device: torch.device
    own_context: bool
    max_rows: int | None
    bucket_cost: float


@dataclass(frozen=True)
class Texts:
    """C tokenised texts, on the CPU: made once per list of class names.

    ids: (C, T) token ids up to and including EOS, padded with 0; -1-j stands for context vector j.
    lengths: (C,) number of tokens, SOS and EOS included.
    """

    ids: Tensor
    lengths: Tensor
    _layouts: dict[Packing, Layout] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def num_ctx(self) -> int:
        """Number of context slots."""
        return max(0, -int(self.ids.min()))

    @classmethod
    def from_tokens(cls, tokens: Tensor) -> Texts:
        """From ``clip.tokenize``'s (C, 77); the end is where the largest id stands, as in CLIP."""
        tokens = tokens.cpu().long()
        return cls(tokens, tokens.argmax(dim=-1) + 1)

    @classmethod
    def from_names(
        cls,
        names: Sequence[str],
        phrase: str = "",
        num_ctx: int = 0,
        position: str = "end",
        limit: int = CONTEXT_LENGTH,
    ) -> Texts:
        """``phrase name.`` per class name, the phrase's first ``num_ctx`` tokens being context slots.

        An empty phrase means ``num_ctx`` placeholder words. ``position`` of the class name among the slots (CoOp):
        end: SOS ctx name . EOS; middle: SOS ctx[:P//2] name ctx[P//2:] . EOS; front: SOS name ctx . EOS.
        Raises ValueError for an unknown position, a phrase with fewer tokens than slots, or a text of too many tokens.
        """
        if position not in CLASS_TOKEN_POSITIONS:
            raise ValueError(f"CLASS_TOKEN_POSITION must be one of {CLASS_TOKEN_POSITIONS}, but got {position!r}")
        phrase = phrase or " ".join(["X"] * num_ctx)
        if (found := len(tokenizer().encode(phrase))) < num_ctx:
            raise ValueError(
                f"The initial phrase {phrase!r} has {found} tokens, fewer than the {num_ctx} context tokens"
            )
        slots = list(range(-1, -num_ctx - 1, -1))
        before = {"end": num_ctx, "middle": num_ctx // 2, "front": 0}[position]
        rows = []
        for name in names:
            ids = checked_ids(f"{phrase} {name}.".strip(), limit)
            after = ids[1 + num_ctx :]
            cut = 0 if position == "end" else len(tokenizer().encode(name))
            rows.append([ids[0], *slots[:before], *after[:cut], *slots[before:], *after[cut:]])
        return cls.from_lists(rows)

    @classmethod
    def from_strings(cls, strings: Sequence[str], limit: int = CONTEXT_LENGTH) -> Texts:
        return cls.from_lists([checked_ids(s, limit) for s in strings])

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> Texts:
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for target, row in zip(ids, rows):
            target[: len(row)] = torch.tensor(row)
        return cls(ids, lengths)

    def select(self, index: Tensor) -> Texts:
        """The texts of some classes, (K,) indices, with repetitions if so asked."""
        index = index.cpu()
        return Texts(self.ids[index], self.lengths[index])

    def layout(self, packing: Packing) -> Layout:
        """Where the rows of these texts lie; kept, so that a class list is laid out once."""
        if packing not in self._layouts:
            self.pack(packing)
        return self._layouts[packing]

    def pack(self, packing: Packing, passengers: Tree = None) -> Tree:
        """Make the layout now. ``passengers`` (see ``to_device``) travel to the device with it and are returned."""
        with torch.inference_mode(False):  # what is kept may meet gradients later
            layout = make_layout(self.ids, self.lengths, packing.own_context, packing.max_rows, packing.bucket_cost)
        self._layouts[packing], passengers = to_device((layout, passengers), packing.device)
        return passengers


def token_ids(text: str) -> list[int]:
    """SOS, the text's tokens, EOS."""
    return [tokenizer().sot_token_id, *tokenizer().encode(text), tokenizer().eot_token_id]


def checked_ids(text: str, limit: int) -> list[int]:
    ids = token_ids(text)
    if len(ids) > limit:
        raise ValueError(f"Input {text!r} is too long for context length {limit} ({len(ids)} tokens)")
    return ids


def encode_rows(model: CLIP, texts: Texts, plan: PromptPlan | None, memory_gb: float | None) -> Tensor:
    """EOS rows after the last block, before ``ln_final``: (C, D), or (B, C, D) for one context per image."""
    check_vocabulary(model, texts)
    check_slots(texts, plan)
    context = None if plan is None else plan.input
    per_image = context is not None and context.dim() == 4
    groups = len(context) if per_image else 1
    own_context = context is not None and context.dim() == 3
    layout = texts.layout(packing(model, own_context, groups, memory_gb))
    prefix = [keys_values.expand(groups, -1, -1) for keys_values in encode_prefix(model, layout.prefix, plan)]

    def run(chunk: Chunk, *prefix: Tensor) -> Tensor:
        return encode_suffixes(model, chunk, context, prefix)

    if len(layout.chunks) > 1 and torch.is_grad_enabled():
        parts = [
            checkpoint(run, chunk, *prefix, use_reentrant=False, preserve_rng_state=False) for chunk in layout.chunks
        ]
    else:
        parts = [run(chunk, *prefix) for chunk in layout.chunks]
    features = torch.cat(parts, dim=1)[:, layout.order]
    return features if per_image else features[0]


def packing(model: CLIP, own_context: bool, groups: int, memory_gb: float | None) -> Packing:
    """How ``encode_rows`` packs texts; in training and in evaluation not the same. groups: G of ``encode_suffixes``."""
    max_rows = None if memory_gb is None else rows_within(memory_gb, model, groups)
    device = model.positional_embedding.device
    return Packing(device, own_context, max_rows, bucket_cost(model, device))


def embed(model: CLIP, rows: Rows, context: Tensor | None) -> Tensor:
    """Token plus positional embeddings, context vectors in their slots: (G, R, D)."""
    x = model.token_embedding(rows.ids).to(model.dtype)[None]
    if context is not None and len(rows.slots):
        values = (context[:, 0] if context.dim() == 4 else context[None])[(slice(None), *rows.context)].to(model.dtype)
        x = x.expand(len(values), -1, -1).index_copy(1, rows.slots, values)
    return x + model.positional_embedding[rows.positions].to(model.dtype)


def encode_prefix(model: CLIP, rows: Rows, plan: PromptPlan | None) -> list[Tensor]:
    """Run the common rows through all layers; returns their keys and values per layer, (1 or G, p, 2 D)."""
    x = embed(model, rows, None if plan is None else plan.input)
    layers = {} if plan is None else plan.layers
    positions = model.positional_embedding[1 : 1 + (0 if plan is None else plan.length)]
    layers = raw_first_layer(layers, lambda views: views.to(x.dtype) + positions.to(x.dtype))
    keys_values = []
    for i, block in enumerate(model.transformer.resblocks):
        prompt = layers.get(i)
        qkv = block.project(x, prompt, start=1)
        keys_values.append(qkv[..., qkv.shape[-1] // 3 :])
        if i + 1 < model.transformer.layers:
            if prompt is not None and prompt.residual is not None:
                x = write_slots(x, 1, prompt.residual)
            x = block.finish(x, block.attn(qkv, causal=True))
    return keys_values


def encode_suffixes(model: CLIP, chunk: Chunk, context: Tensor | None, prefix: Sequence[Tensor]) -> Tensor:
    """Run packed suffixes through all layers; returns their EOS rows, (G, texts, D)."""
    x = embed(model, chunk.rows, context)
    for i, (block, keys_values) in enumerate(zip(model.transformer.resblocks, prefix)):
        last = i + 1 == model.transformer.layers
        attended = attend(block.attn, block.project(x), keys_values, chunk, last)
        x = block.finish(x[:, chunk.eos] if last else x, attended)
    return x


def attend(attn: Attention, qkv: Tensor, prefix: Tensor, chunk: Chunk, last: bool) -> Tensor:
    """Causal attention of every suffix to the prefix and itself.

    qkv: (1 or G, R, 3 D) of the suffixes. prefix: (G, p, 2 D) keys and values. Returns (G, R, D); with ``last`` only
    the EOS rows, (G, texts, D).
    """
    groups, width = len(prefix), prefix.shape[2] // 2
    queries, own = qkv.expand(groups, -1, -1).split([width, 2 * width], dim=-1)
    queries = queries[:, chunk.eos] if last else queries
    out, asked, seen = [], 0, 0
    for bucket in chunk.buckets:
        count, size = bucket.count, bucket.size
        rows = 1 if last else size
        query = queries[:, asked : asked + count * rows].unflatten(1, (count, rows)).flatten(0, 1)
        ours = own[:, seen : seen + count * size].unflatten(1, (count, size))
        keys_values = torch.cat([prefix[:, None].expand(-1, count, -1, -1), ours], dim=2).flatten(0, 1)
        asked, seen = asked + count * rows, seen + count * size
        mask = bucket.eos_mask if last else bucket.mask
        if last and mask is not None and groups > 1:
            mask = mask.repeat(groups, 1, 1, 1)
        key, value = (attn.split_heads(x) for x in keys_values.chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(attn.split_heads(query), key, value, attn_mask=mask)
        out.append(attended.transpose(1, 2).reshape(groups, -1, width))
    return attn.out_proj(torch.cat(out, dim=1))


def bucket_cost(model: CLIP, device: torch.device) -> float:
    """Rows whose linear layers, 24 D^2 operations a row, take as long as launching one more bucket's attention."""
    operations = {"cpu": 5e6, "cuda": 5e9}.get(device.type, 5e9)  # in about 0.1 ms, about 50 us
    return operations / (24 * model.transformer.width**2)


def rows_within(memory_gb: float, model: CLIP, groups: int) -> int:
    """Suffix rows whose activations fit the budget: about 24 D numbers a row and layer are kept for the backward pass.

    Without gradients only one layer's are alive at a time. Measured in ``benchmarks/memory.py``.
    """
    layers = model.transformer.layers if torch.is_grad_enabled() else 1
    row_bytes = 24 * model.transformer.width * layers * groups * torch.finfo(model.dtype).bits // 8
    return max(1, int(memory_gb * 2**30 / row_bytes))


def check_slots(texts: Texts, plan: PromptPlan | None) -> None:
    """ValueError if a plan does not fit the texts' context slots."""
    length = 0 if plan is None else plan.length
    if texts.num_ctx != length:
        raise ValueError(f"Texts with {texts.num_ctx} context slots do not take {length} context tokens")
    if plan is None:
        return
    if plan.input.dim() == 3 and len(plan.input) != len(texts):
        raise ValueError(f"{len(plan.input)} contexts, one per class, do not fit {len(texts)} texts")
    first = texts.ids[:, 1 : 1 + length] == -1 - torch.arange(length)
    if plan.layers and (plan.input.dim() == 3 or not first.all()):
        raise ValueError("Deep text prompts need a context that all classes share and that comes before the class name")


def check_vocabulary(model: CLIP, texts: Texts) -> None:
    """ValueError naming the words, whole, that a model with a small vocabulary does not know."""
    if model.known_tokens is None:
        return
    misses = (texts.ids > 0) & ~model.known_tokens[texts.ids.clamp(min=0)]
    words: dict[str, None] = {}  # in the order of the texts
    for ids in texts.ids[misses.any(dim=1)].tolist():
        word: list[int] = []
        for token in ids[1:]:
            if token <= 0:  # a context slot, or padding
                continue
            word.append(token)
            if tokenizer().decoder[token].endswith("</w>"):
                if not model.known_tokens[word].all():
                    words[tokenizer().decode(word).strip()] = None
                word = []
    if words:
        shown = ", ".join(map(repr, list(words)[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
        raise ValueError(
            f"This model does not know {shown}; 'python -m tools.data words' lists the words of the tiny CLIP. Use"
            " other class names, or a full CLIP (MODEL.BACKBONE.NAME ViT-B/16)"
        )
