"""CLIP's byte-pair tokenizer, with the vocabulary file and encoder that come with ``open_clip``."""

from __future__ import annotations

from functools import cache

from open_clip.tokenizer import SimpleTokenizer

__all__ = ["SimpleTokenizer", "tokenizer"]


@cache
def tokenizer() -> SimpleTokenizer:
    """The one tokenizer of the process (building it reads the vocabulary)."""
    return SimpleTokenizer()
