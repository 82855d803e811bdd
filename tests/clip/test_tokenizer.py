"""``clip.tokenize`` gives open_clip's (and OpenAI's) token ids."""

from __future__ import annotations

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

import clip
from clip.simple_tokenizer import SimpleTokenizer, tokenizer

ODD = [
    "",
    " ",
    "cat",
    "  Two   spaces\tand\na line  ",
    "UPPER lower MiXeD",
    "don't we'll they've I'm",
    "naïve café Ångström straße",
    "写真 の 猫",
    "фотография кошки",
    "صورة قطة",
    "😀 👩‍👩‍👧 🇫🇷",
    "Tom &amp; Jerry &lt;3 &amp;amp; &eacute;",
    "1234567890 3.14 1e-5 2,000",
    "<start_of_text> inside <end_of_text>",
    "!!! ??? ... --- ___ @#$%^&*()",
    "supercalifragilisticexpialidocious",
    "a/b\\c|d;e:f",
    "\u200bzero\u200dwidth\ufeff",
    "x" * 40,
]


@pytest.fixture(scope="module")
def theirs() -> open_clip.SimpleTokenizer:
    return open_clip.get_tokenizer("ViT-B-16")


def test_odd_strings_class_names_and_templates_equal_open_clip(theirs: open_clip.SimpleTokenizer) -> None:
    texts = [*ODD, *IMAGENET_CLASSNAMES[::4]] + [template("Sea Lion") for template in OPENAI_IMAGENET_TEMPLATES]
    assert len(texts) > 300
    found = clip.tokenize(texts)
    assert found.shape == (len(texts), 77) and not found.is_floating_point()
    assert torch.equal(found.long(), theirs(texts))


@given(st.text(max_size=30))
def test_any_short_text_equals_open_clip(theirs: open_clip.SimpleTokenizer, text: str) -> None:
    assert torch.equal(clip.tokenize(text, truncate=True).long(), theirs([text]))


def test_recorded_ids() -> None:
    """The example of OpenAI's README."""
    found = clip.tokenize("a diagram, a dog")[0]
    assert found[:7].tolist() == [49406, 320, 22697, 267, 320, 1929, 49407]
    assert found[7:].sum() == 0


def test_long_texts_are_refused_or_cut(theirs: open_clip.SimpleTokenizer) -> None:
    long = "a cat and " * 40
    with pytest.raises(RuntimeError, match=r"Input 'a cat and .* is too long for context length 77 \(122 tokens\)"):
        clip.tokenize(["cat", long])
    found = clip.tokenize(["cat", long], truncate=True)
    assert torch.equal(found.long(), theirs(["cat", long]))
    assert found[1, -1] == 49407
    assert clip.tokenize(long, context_length=9, truncate=True).shape == (1, 9)


def test_a_text_may_fill_the_context() -> None:
    full = " ".join(["cat"] * 75)
    assert clip.tokenize(full)[0, -1] == 49407
    with pytest.raises(RuntimeError, match="78 tokens"):
        clip.tokenize(full + " cat")


def test_one_tokenizer_that_decodes_what_it_encodes() -> None:
    assert tokenizer() is tokenizer()
    assert isinstance(tokenizer(), SimpleTokenizer)
    assert tokenizer().decode(tokenizer().encode("a photo of a golden retriever")).strip() == (
        "a photo of a golden retriever"
    )
