"""The fast text pass equals the plain one over 77 padded rows: features, and gradients of every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

import clip
from benchmarks import naive
from clip.model import CLIP
from clip.packing import Packing, merge_buckets
from clip.prompts import PromptPlan
from clip.simple_tokenizer import tokenizer
from clip.text import CLASS_TOKEN_POSITIONS, Texts
from clip.text_encoder import rows_within
from clip.weights import set_precision

from .small import KINDS, LAYERS, TEXT_WIDTH, deep_plan, difference, disagreement, prompt_rows, small_clip, tensors

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
WORDS = ["cat", "dog", "sea", "red", "blue", "house", "car", "tree", "bird", "fish"]  # one token each
IMAGES = 2


def rows_of(count: int, model: CLIP) -> float:
    """A memory budget, in GiB, for this many suffix rows with gradients."""
    bytes_per_row = 24 * TEXT_WIDTH * LAYERS * model.positional_embedding.element_size()
    return count * bytes_per_row / 2**30


@dataclass(frozen=True)
class Case:
    """Class names by their numbers of tokens, and a plan."""

    name_lengths: list[int]
    num_ctx: int
    position: str
    owner: str  # of a context: shared, class or image
    depth: int
    form: str
    chunk_rows: int | None

    def texts(self) -> Texts:
        names = [
            " ".join(WORDS[(i + j) % len(WORDS)] for j in range(length)) for i, length in enumerate(self.name_lengths)
        ]
        return Texts.from_names(names, num_ctx=self.num_ctx, position=self.position)

    def plan(self, dtype: torch.dtype) -> PromptPlan | None:
        shape = {"shared": (), "class": (len(self.name_lengths),), "image": (IMAGES,)}[self.owner]
        context = KINDS[self.owner](prompt_rows(*shape, self.num_ctx, TEXT_WIDTH, dtype=dtype))
        deep = self.owner != "class" and self.position == "end"
        return deep_plan(context, self.depth, self.form) if deep else PromptPlan(context)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    num_ctx = draw(st.integers(0, 16))
    longest = min(60, 77 - 3 - num_ctx)  # SOS, the full stop and EOS
    lengths = st.lists(st.integers(1, longest), min_size=1, max_size=6)
    same_lengths = st.tuples(st.integers(1, longest), st.integers(1, 6)).map(lambda pair: [pair[0]] * pair[1])
    return Case(
        name_lengths=draw(st.one_of(lengths, same_lengths)),
        num_ctx=num_ctx,
        position=draw(st.sampled_from(CLASS_TOKEN_POSITIONS)),
        owner=draw(st.sampled_from(["shared", "class", "image"])),
        depth=draw(st.integers(1, LAYERS)),
        form=draw(st.sampled_from(["shared", "carry", "query"])),
        chunk_rows=draw(st.one_of(st.none(), st.integers(1, 40))),
    )


def check(model: CLIP, case: Case) -> None:
    texts, plan = case.texts(), case.plan(model.dtype)
    memory = None if case.chunk_rows is None else rows_of(case.chunk_rows, model)
    found = disagreement(
        lambda: model.encode_text(texts, plan, memory),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        tensors(plan),
    )
    assert found < TOLERANCE[model.dtype]


ONE_CLASS = Case([3], 4, "end", "shared", 2, "carry", None)
DUPLICATES = Case([2] * 12, 2, "middle", "shared", 1, "shared", 7)  # ten words: names 11 and 12 repeat names 1 and 2
EACH_ITS_OWN_CHUNK = Case([1, 60, 7], 14, "end", "image", 3, "query", 1)
NO_CONTEXT = Case([5, 1], 0, "end", "shared", 3, "shared", 3)
OWN_CONTEXTS = Case([4, 9, 4], 16, "front", "class", 1, "shared", 20)


@given(cases())
@example(ONE_CLASS)
@example(DUPLICATES)
@example(EACH_ITS_OWN_CHUNK)
@example(NO_CONTEXT)
@example(OWN_CONTEXTS)
def test_equals_the_plain_computation_in_fp64(model: CLIP, case: Case) -> None:
    check(model, case)


@pytest.mark.parametrize("case", [ONE_CLASS, DUPLICATES, EACH_ITS_OWN_CHUNK, NO_CONTEXT, OWN_CONTEXTS])
def test_equals_the_plain_computation_in_fp32(model32: CLIP, case: Case) -> None:
    check(model32, case)


@pytest.mark.parametrize("chunk_rows", [None, 20])
def test_gradients_of_the_weights_equal_the_plain_ones(chunk_rows: int | None) -> None:
    """What training a CLIP needs. The key's bias has none (softmax does not see it), hence one vector for all."""
    model = small_clip().double().requires_grad_(True)
    texts = Texts.from_strings(["a photo of a cat.", "a sea", "a red fish in the blue sea."])
    memory = None if chunk_rows is None else rows_of(chunk_rows, model)
    weights = [p for name, p in model.named_parameters() if not name.startswith("visual") and name != "logit_scale"]
    gradients = []
    for features in (model.encode_text(texts, None, memory), naive.encode_text(model, naive.padded_ids(texts))):
        own = torch.autograd.grad(features.sin().sum(), weights)
        gradients.append(torch.cat([g.flatten() for g in own]))
    assert difference(*gradients) < 1e-9


def test_a_context_per_image_gives_logits_per_image(model: CLIP) -> None:
    case = Case([1, 4, 2], 4, "end", "image", 1, "shared", None)
    texts, plan, image_features = case.texts(), case.plan(model.dtype), torch.randn(IMAGES, 64, dtype=torch.float64)
    found = disagreement(
        lambda: naive.logits(model, image_features, model.encode_text(texts, plan)),
        lambda: naive.logits(model, image_features, naive.encode_text(model, naive.padded_ids(texts), plan)),
        tensors(plan),
    )
    assert found < 1e-9


def test_token_tensors_need_no_padding_behind_eos(model: CLIP) -> None:
    tokens = clip.tokenize(["a cat", "a photo of a red house", "a cat"])
    expected = naive.encode_text(model, tokens.long())
    assert difference(model.encode_text(tokens), expected) < 1e-12
    assert difference(model.encode_text(tokens[:, :10]), expected) < 1e-12
    assert difference(model.encode_text(tokens.flip(0)), expected.flip(0)) < 1e-12


def test_select_takes_classes_in_any_order_and_repeated(model: CLIP) -> None:
    texts, index = Texts.from_names(["cat", "golden retriever", "sea"], num_ctx=2), torch.tensor([2, 0, 2, 1])
    plan = PromptPlan(prompt_rows(2, TEXT_WIDTH))
    found = model.encode_text(texts.select(index), plan)
    assert len(texts.select(index)) == 4
    assert difference(found, model.encode_text(texts, plan)[index]) < 1e-12


def test_memory_budget_bounds_the_rows_of_a_chunk_and_counts_images(model: CLIP) -> None:
    texts = Texts.from_names([" ".join(WORDS[i % 10] for _ in range(1 + i % 7)) for i in range(50)], num_ctx=4)
    for rows in (9, 10, 33, 1000):
        chunks = texts.layout(Packing(torch.device("cpu"), False, rows, 0)).chunks
        sizes = [len(chunk.rows.ids) for chunk in chunks]
        assert max(sizes) <= rows
        assert sum(sizes) == int((texts.lengths - 5).sum())
    assert [len(chunk.buckets) > 0 for chunk in texts.layout(Packing(torch.device("cpu"), False, 1, 0)).chunks] == [
        True
    ] * 50
    assert rows_within(rows_of(100, model), model.text_encoder, 1) == 100
    assert rows_within(rows_of(100, model), model.text_encoder, 4) == 25
    with torch.no_grad():
        assert rows_within(rows_of(100, model), model.text_encoder, 1) == 100 * LAYERS


@pytest.mark.parametrize("cost", [0.0, 3.0, 1e9])
@pytest.mark.parametrize("memory_rows", [None, 7])
def test_filled_buckets_give_the_same_features(
    model: CLIP, monkeypatch: pytest.MonkeyPatch, cost: float, memory_rows: int | None
) -> None:
    """Rows behind EOS are never seen, whatever a bucket takes in; also with one context per image."""
    monkeypatch.setattr("clip.text_encoder.bucket_cost", lambda *_: cost)
    texts = Texts.from_names([" ".join(WORDS[i % 10] for _ in range(1 + i % 6)) for i in range(9)], num_ctx=2)
    memory = None if memory_rows is None else rows_of(memory_rows, model)
    for kind, number in (("shared", ()), ("image", (3,))):
        plan = PromptPlan(KINDS[kind](prompt_rows(*number, 2, TEXT_WIDTH)))
        expected = naive.encode_text(model, naive.padded_ids(texts), plan)
        assert difference(model.encode_text(texts, plan, memory), expected) < 1e-9


def test_merged_buckets_are_the_cheapest() -> None:
    """Against all ways to cut the sorted sizes."""
    buckets = [(5, 1), (1, 2), (7, 4), (2, 9)]
    for cost in (0.0, 2.0, 8.0, 100.0):
        totals = []
        for cuts in product([False, True], repeat=3):
            ends = [i for i, cut in enumerate([*cuts, True]) if cut]
            begins = [0, *(e + 1 for e in ends[:-1])]
            filling = sum(c * (buckets[e][1] - s) for b, e in zip(begins, ends) for c, s in buckets[b : e + 1])
            totals.append(filling + cost * len(ends))
        merged = merge_buckets(buckets, cost)
        rows = sum(count * size for count, size in merged) - sum(count * size for count, size in buckets)
        assert rows + cost * len(merged) == min(totals)


def words_of(texts: Texts) -> list[list[str]]:
    """Every row as its tokens' words, contexts as c0, c1, ..."""
    return [
        [f"c{-1 - i}" if i < 0 else tokenizer().decode([i]).strip() for i in row[1 : length - 1].tolist()]
        for row, length in zip(texts.ids, texts.lengths)
    ]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ("end", ["c0", "c1", "c2", "sea", "bird", "."]),
        ("middle", ["c0", "sea", "bird", "c1", "c2", "."]),
        ("front", ["sea", "bird", "c0", "c1", "c2", "."]),
    ],
)
def test_class_token_positions(position: str, expected: list[str]) -> None:
    assert words_of(Texts.from_names(["sea bird"], num_ctx=3, position=position)) == [expected]


def test_words_of_the_phrase_behind_the_context_stay() -> None:
    texts = Texts.from_names(["cat"], "a photo of a", num_ctx=2)
    assert words_of(texts) == [["c0", "c1", "of", "a", "cat", "."]]
    assert words_of(Texts.from_names(["cat"], "a photo of a")) == [["a", "photo", "of", "a", "cat", "."]]


def test_fixed_words_behind_the_context_equal_the_plain_computation(model: CLIP) -> None:
    texts = Texts.from_names(["cat", "sea bird"], "a photo of a", num_ctx=2)
    plan = deep_plan(prompt_rows(2, TEXT_WIDTH), 2, "carry")
    found = disagreement(
        lambda: model.encode_text(texts, plan),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        tensors(plan),
    )
    assert found < 1e-9


def test_bad_wordings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*'end', 'middle', 'front'.* got 'back'"):
        Texts.from_names(["cat"], position="back")
    with pytest.raises(ValueError, match="'a photo' has 2 tokens, fewer than the 4"):
        Texts.from_names(["cat"], "a photo", num_ctx=4)
    with pytest.raises(ValueError, match=r"cat cat.* is too long for context length 77 \(83 tokens\)"):
        Texts.from_names(["dog", "cat " * 80])


def test_unknown_words_of_a_small_vocabulary_are_named() -> None:
    model = small_clip()
    known = Texts.from_names(["red cat"], "a photo of a").ids
    model.known_tokens = torch.zeros(model.vocab_size, dtype=torch.bool).index_fill(0, known.flatten(), True)
    assert model.encode_text(Texts.from_names(["cat", "red red cat"])).shape == (2, 64)
    with pytest.raises(ValueError, match=r"does not know 'xylophones', 'sea'; 'python -m tools.data words"):
        model.encode_text(Texts.from_names(["cat", "red xylophones", "red sea"], num_ctx=1, position="middle"))


@pytest.mark.parametrize(("precision", "bound"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_stays_close(model32: CLIP, precision: str, bound: float) -> None:
    """bf16 has 8 significant bits: 2^-8 a rounding, a dozen roundings a layer. The plain pass is no closer."""
    half = set_precision(small_clip(), precision)
    texts = Texts.from_names(["cat", "golden retriever", "sea"], num_ctx=4)
    plan = deep_plan(prompt_rows(4, TEXT_WIDTH, dtype=torch.float32), 2, "carry")

    def loss_gradients(model: CLIP) -> list[Tensor]:
        features = model.encode_text(texts, plan).float()
        return [features, *torch.autograd.grad(features.sin().sum(), [plan.input.rows, plan.layers[1].value])]

    for found, expected in zip(loss_gradients(half), loss_gradients(model32)):
        assert 0 < difference(found, expected) < bound
    plain = naive.encode_text(half, naive.padded_ids(texts), plan).float()
    assert difference(half.encode_text(texts, plan).float(), plain) < bound
