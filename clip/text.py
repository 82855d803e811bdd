"""Class names as token rows, ready for the text encoder.

Letters: C texts of up to T tokens, K of them that are picked, P context tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .packing import Layout, Packing, make_layout
from .simple_tokenizer import tokenizer
from .transfer import Tree, to_device

CONTEXT_LENGTH = 77
CLASS_TOKEN_POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True, eq=False)
class Texts:
    """C tokenised texts, on the CPU: made once per list of class names.

    ids: (C, T) token ids up to and including EOS, padded with 0; -1-j stands for context vector j.
    lengths: (C,) number of tokens, SOS and EOS included.
    """

    ids: Tensor
    lengths: Tensor
    _layouts: dict[Packing, Layout] = field(default_factory=dict, repr=False)

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
        return Texts(self.ids[index], self.lengths[index])  # (K, T) and (K,)

    def layout(self, packing: Packing) -> Layout:
        """Where the rows of these texts lie; kept, so that a class list is laid out once."""
        if packing not in self._layouts:
            self.pack(packing)
        return self._layouts[packing]

    def pack(self, packing: Packing, passengers: Tree = None) -> Tree:
        """Make the layout now. ``passengers`` (see ``to_device``) travel to the device with it and are returned."""
        with torch.inference_mode(False):  # what is kept may meet gradients later
            layout = make_layout(self.ids, self.lengths, packing)
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


def check_vocabulary(known: Tensor | None, texts: Texts) -> None:
    """ValueError naming the words, whole, that a model with a small vocabulary, ``CLIP.known_tokens``, lacks."""
    if known is None:
        return
    misses = (texts.ids > 0) & ~known[texts.ids.clamp(min=0)]  # (C, T)
    words: dict[str, None] = {}  # in the order of the texts
    for ids in texts.ids[misses.any(dim=1)].tolist():
        word: list[int] = []
        for token in ids[1:]:
            if token <= 0:  # a context slot, or padding
                continue
            word.append(token)
            if tokenizer().decoder[token].endswith("</w>"):
                if not known[word].all():
                    words[tokenizer().decode(word).strip()] = None
                word = []
    if words:
        shown = ", ".join(map(repr, list(words)[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
        raise ValueError(
            f"This model does not know {shown}; 'python -m tools.data words' lists the words of the tiny CLIP. Use"
            " other class names, or a full CLIP (MODEL.BACKBONE.NAME ViT-B/16)"
        )
