"""Changed layers in both encoders equal the plain computation with other weights, in fp64, gradients included."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import naive
from clip import Adapter, LayerChange, LowRank, PerClass, PerImage, PromptPlan, Texts
from clip.model import CLIP

from .small import LAYERS, SIZE, TEXT_WIDTH, VISION_WIDTH, deep_plan, difference, disagreement, prompt_rows, tensors

EXACT = 1e-9
NAMES = ["cat", "golden retriever", "annual crop land", "a"]
MEMORY = pytest.mark.parametrize("memory_gb", [None, 1e-9], ids=["at once", "one by one"])


def low_rank(width: int, dropout: float = 0.0, which: tuple[int, ...] = tuple(range(LAYERS))) -> dict[int, LayerChange]:
    """Changes of the size of the weights, of rank 2."""
    return {
        layer: LayerChange(LowRank(prompt_rows(3, 2, width), 0.2 * prompt_rows(3, width, 2), 0.7, dropout))
        for layer in which
    }


def adapters(width: int, which: tuple[int, ...] = tuple(range(LAYERS))) -> dict[int, LayerChange]:
    """Three maps each, of the size of a layer's output."""

    def linear(before: int, after: int) -> tuple[Tensor, Tensor]:
        return prompt_rows(after, before), prompt_rows(after)

    return {
        layer: LayerChange(added=Adapter((linear(width, 8), linear(8, 6), linear(6, width)), 0.3)) for layer in which
    }


def changed(model: CLIP, text: Mapping[int, LayerChange], vision: Mapping[int, LayerChange]) -> CLIP:
    """A copy with weights W + scale B A, query, key and value one after the other."""
    model = copy.deepcopy(model)
    for tower, changes in ((model.transformer, text), (model.visual.transformer, vision)):
        for layer, change in changes.items():
            attn, pair = tower.resblocks[layer].attn, change.qkv
            rows = [own + pair.scale * b @ a for own, a, b in zip(attn.in_proj_weight.chunk(3), pair.down, pair.up)]
            del attn.in_proj_weight
            attn.in_proj_weight = torch.cat(rows)
    return model


def learnable(plan: PromptPlan) -> list[Tensor]:
    return [tensor for tensor in tensors(plan) if tensor.numel()]


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64)


def test_the_published_check_value() -> None:
    """W + B A / sqrt(2), for each of the three."""
    weight = torch.arange(9.0).view(3, 3) / 10
    down, up = torch.tensor([[1, 0, -1], [0.5, 0.5, 0]]), torch.tensor([[0.1, 0], [0, 0.2], [0.3, -0.1]])
    found = LowRank(down.repeat(3, 1, 1), up.repeat(3, 1, 1), 2**-0.5).merged(weight.repeat(3, 1)).weight
    expected = [[0.0707107, 0.1, 0.1292893], [0.3707107, 0.4707107, 0.5], [0.7767767, 0.6646447, 0.587868]]
    assert difference(found, torch.tensor(expected).repeat(3, 1)) < 1e-6


@pytest.mark.parametrize("form", [None, "shared", "carry"])
def test_images(model: CLIP, form: str | None) -> None:
    changes, image = low_rank(VISION_WIDTH), images()
    prompted = PromptPlan() if form is None else deep_plan(prompt_rows(2, VISION_WIDTH), 2, form)
    plan = PromptPlan(prompted.input, prompted.layers, changes)
    found = disagreement(
        lambda: model.encode_image(image, plan),
        lambda: naive.encode_image(changed(model, {}, changes), image, prompted if form else None),
        learnable(plan),
    )
    assert found < EXACT


@MEMORY
@pytest.mark.parametrize("form", [None, "shared", "carry"])
def test_texts(model: CLIP, form: str | None, memory_gb: float | None) -> None:
    """With a common beginning, which runs once, with prompts and without; in chunks, which run twice."""
    changes = low_rank(TEXT_WIDTH, which=(0, LAYERS - 1) if form else (0, 1, 2))
    prompted = PromptPlan() if form is None else deep_plan(prompt_rows(2, TEXT_WIDTH), 2, form)
    texts = Texts.from_names(NAMES, "" if form else "a photo of a", prompted.length)
    plan = PromptPlan(prompted.input, prompted.layers, changes)
    found = disagreement(
        lambda: model.encode_text(texts, plan, memory_gb),
        lambda: naive.encode_text(changed(model, changes, {}), naive.padded_ids(texts), prompted if form else None),
        learnable(plan),
    )
    assert found < EXACT


@pytest.mark.parametrize("form", [None, "shared", "carry"])
def test_adapters_beside_layers_of_images(model: CLIP, form: str | None) -> None:
    image, inside = images(), PromptPlan() if form is None else deep_plan(prompt_rows(2, VISION_WIDTH), 2, form)
    both = {**adapters(VISION_WIDTH), 1: replace(low_rank(VISION_WIDTH)[1], added=adapters(VISION_WIDTH)[1].added)}
    plan = replace(inside, changes=both)
    found = disagreement(
        lambda: model.encode_image(image, plan), lambda: naive.encode_image(model, image, plan), learnable(plan)
    )
    assert found < EXACT
    assert difference(model.encode_image(image, plan), model.encode_image(image, inside)) > 0.01


@MEMORY
@pytest.mark.parametrize("form", [None, "shared", "carry", PerClass, PerImage])
def test_adapters_beside_layers_of_texts(model: CLIP, form: str | type | None, memory_gb: float | None) -> None:
    """In two of three layers, of which one is the last."""
    if form is None:
        inside, texts = PromptPlan(), Texts.from_names(NAMES, "a photo of a")
    else:
        rows = prompt_rows(2, TEXT_WIDTH) if isinstance(form, str) else form(prompt_rows(len(NAMES), 2, TEXT_WIDTH))
        inside = deep_plan(rows, 2, form) if isinstance(form, str) else PromptPlan(rows)
        texts = Texts.from_names(NAMES, num_ctx=2)
    plan = replace(inside, changes=adapters(TEXT_WIDTH, which=(0, LAYERS - 1)))
    found = disagreement(
        lambda: model.encode_text(texts, plan, memory_gb),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        learnable(plan),
    )
    assert found < EXACT


@pytest.mark.parametrize("kind", [PerClass, PerImage])
def test_texts_with_contexts_of_their_own(model: CLIP, kind: type) -> None:
    changes, context = low_rank(TEXT_WIDTH), prompt_rows(len(NAMES), 2, TEXT_WIDTH)
    texts, plan = Texts.from_names(NAMES, num_ctx=2), PromptPlan(kind(context), changes=changes)
    found = disagreement(
        lambda: model.encode_text(texts, plan),
        lambda: naive.encode_text(changed(model, changes, {}), naive.padded_ids(texts), PromptPlan(kind(context))),
        tensors(plan),
    )
    assert found < EXACT


def test_with_b_of_zero_nothing_changes(model: CLIP) -> None:
    """Bit for bit, merged or not."""
    image, texts = images(), Texts.from_names(NAMES)
    towers = {TEXT_WIDTH: model.transformer, VISION_WIDTH: model.visual.transformer}
    plans = {}
    for width, tower in towers.items():
        changes = {
            layer: LayerChange(LowRank(change.qkv.down, torch.zeros_like(change.qkv.up), 0.7))
            for layer, change in low_rank(width).items()
        }
        plans[width] = (plan := PromptPlan(changes=changes)), tower.merge(plan)
    for text, vision in zip(*plans.values()):
        assert torch.equal(model.encode_text(texts, text), model.encode_text(texts))
        assert torch.equal(model.encode_image(image, vision), model.encode_image(image))


@pytest.mark.parametrize("prompted", [False, True])
def test_merged_is_unmerged(model: CLIP, prompted: bool) -> None:
    """And what is merged has no low-rank path left."""
    image, inside = images(), deep_plan(prompt_rows(2, VISION_WIDTH), 2, "carry") if prompted else PromptPlan()
    plan = PromptPlan(inside.input, inside.layers, low_rank(VISION_WIDTH, which=(0, 2)))
    expected = model.encode_image(image, plan)
    merged = model.visual.transformer.merge(plan)
    with mock.patch.object(LowRank, "project", side_effect=AssertionError):
        assert difference(model.encode_image(image, merged), expected) < 1e-12
    assert (
        difference(model.encode_image(image, PromptPlan(inside.input, inside.layers) if prompted else None), expected)
        > 0.01
    )


def every_third(x: Tensor, rate: float) -> Tensor:
    """Dropout that drops a third of the numbers of each row, always the same."""
    assert rate == 0.3
    return x * (torch.arange(x.shape[-1]) % 3 > 0) / 0.7


def test_dropout_acts_on_what_a_reads_alone(model: CLIP) -> None:
    """Equal to A without a third of its columns, the rest 1 / 0.7 as large."""
    dropped = low_rank(VISION_WIDTH, 0.3)
    pairs = {layer: change.qkv for layer, change in dropped.items()}
    plain = {i: LayerChange(LowRank(every_third(p.down, 0.3), p.up, p.scale)) for i, p in pairs.items()}
    image = images()
    with mock.patch.object(F, "dropout", every_third):
        found = model.encode_image(image, PromptPlan(changes=dropped))
    assert difference(found, model.encode_image(image, PromptPlan(changes=plain))) < EXACT


def test_dropout_is_drawn_for_each_of_the_three_and_for_each_row() -> None:
    rows, ones = torch.ones(5, 40), torch.ones(3, 1, 40)
    change = LowRank(ones, torch.ones(3, 40, 1), 1.0, 0.5)
    found = change.project((rows,) * 3, torch.zeros(120, 40), torch.zeros(120)).view(5, 3, 40)[..., 0]
    assert len(set(found.flatten().tolist())) > 5 and found.std() > 3


def test_chunks_are_computed_again_under_the_same_dropout(model: CLIP) -> None:
    """Their gradients are those of the pass that was seen, and the random numbers go on behind them."""
    plan, texts = PromptPlan(changes=low_rank(TEXT_WIDTH, 0.4)), Texts.from_names(NAMES)
    learned = learnable(plan)

    def run() -> list[Tensor]:
        torch.manual_seed(3)
        rows = model.encode_text(texts, plan, 1e-9)
        return [rows, *torch.autograd.grad(rows.square().sum(), learned), torch.rand(3)]

    found = run()
    with mock.patch("clip.text_encoder.checkpoint", lambda function, *args, **how: function(*args)):
        expected = run()
    assert all(difference(a, b) < EXACT for a, b in zip(found, expected))


def test_changes_that_do_not_fit_are_refused(model: CLIP) -> None:
    with pytest.raises(ValueError, match=r"width \[192\] do not fit an encoder of width 128"):
        model.encode_text(Texts.from_names(NAMES), PromptPlan(changes=low_rank(VISION_WIDTH)))
    with pytest.raises(ValueError, match="depth 5 is larger than the encoder's 3 layers"):
        model.encode_image(images(), PromptPlan(changes=low_rank(VISION_WIDTH, which=(1, 4))))


def test_changes_are_among_the_tensors_that_decide() -> None:
    plan = PromptPlan(changes=low_rank(TEXT_WIDTH))
    before = plan.versions()
    with torch.no_grad():
        plan.changes[1].qkv.up.mul_(2)
    assert plan.versions() != before
