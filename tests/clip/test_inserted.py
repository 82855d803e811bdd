"""Rows that are inserted into the upper layers of both encoders equal the plain computation, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import naive
from clip.model import CLIP, ResidualAttentionBlock
from clip.prompts import LayerPrompt, PerImage, PromptPlan
from clip.text import Texts

from .small import LAYERS, SIZE, TEXT_WIDTH, VISION_WIDTH, difference, disagreement, prompt_rows, tensors

NAMES = ["cat", "golden retriever", "annual crop land", "a", "very old red house by the sea"]
EXACT = 1e-9
LAYERS_OF = pytest.mark.parametrize("layers", [[0, 1, 2], [1, 2], [2], [1], [0, 2]], ids=str)


def inserted(layers: list[int], width: int, length: int = 3) -> PromptPlan:
    return PromptPlan.inserted({layer: prompt_rows(length, width) for layer in layers})


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64)


@LAYERS_OF
@pytest.mark.parametrize("memory_gb", [None, 1e-9], ids=["at once", "one by one"])
@pytest.mark.parametrize("phrase", ["", "a photo of a"])
def test_texts(model: CLIP, layers: list[int], memory_gb: float | None, phrase: str) -> None:
    """Behind SOS, which is the whole common prefix or its beginning; one by one, masks differ."""
    texts, plan = Texts.from_names(NAMES, phrase), inserted(layers, TEXT_WIDTH)
    found = disagreement(
        lambda: model.encode_text(texts, plan, memory_gb),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        tensors(plan),
    )
    assert found < EXACT
    assert difference(model.encode_text(texts, plan), model.encode_text(texts)) > 1e-3


@pytest.mark.parametrize("names", [["cat"], ["cat", "cat"], ["cat", "dog"]], ids=str)
def test_texts_that_share_nearly_all(model: CLIP, names: list[str]) -> None:
    texts, plan = Texts.from_names(names), inserted([1, 2], TEXT_WIDTH)
    found = disagreement(
        lambda: model.encode_text(texts, plan),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        tensors(plan),
    )
    assert found < EXACT


@LAYERS_OF
def test_images_and_what_becomes_of_the_rows(model: CLIP, layers: list[int]) -> None:
    """The plain computation inserts them behind [CLS]: where they stand does not matter."""
    image, plan = images(), inserted(layers, VISION_WIDTH)

    def plain() -> Tensor:
        rows = naive.image_rows(model, image, plan)[:, :4]
        return torch.cat([rows[:, 0] @ model.visual.proj, rows[:, 1:].flatten(1)], dim=1)

    def ours() -> Tensor:
        features, rows = model.encode_image_and_prompt(image, plan)
        assert difference(features, model.encode_image(image, plan)) < 1e-12
        return torch.cat([features, rows.flatten(1)], dim=1)

    assert disagreement(ours, plain, tensors(plan)) < EXACT
    assert difference(model.encode_image(image, plan), model.encode_image(image)) > 1e-3


@pytest.mark.parametrize("first", [1, LAYERS - 1])
def test_layers_before_are_those_of_clip(model: CLIP, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the first of them there are no more rows, and rows that the next layer replaces are not computed."""
    finished = []
    finish = ResidualAttentionBlock.finish

    def count(block: ResidualAttentionBlock, x: Tensor, *others: object) -> Tensor:
        finished.append(x.shape[1])
        return finish(block, x, *others)

    monkeypatch.setattr(ResidualAttentionBlock, "finish", count)
    rows, plan = (SIZE // 8) ** 2 + 1, inserted(list(range(first, LAYERS)), VISION_WIDTH)
    model.encode_image(images(), plan)
    assert finished == [rows] * (LAYERS - 1) + [1]
    finished.clear()
    model.encode_image_and_prompt(images(), plan)
    assert finished == [rows] * (LAYERS - 1) + [1 + 3]


def test_prompts_at_the_entrance_can_be_read_too(model: CLIP) -> None:
    image = images()
    rows = prompt_rows(2, VISION_WIDTH)
    plan = PromptPlan(rows, {1: LayerPrompt.shared(prompt_rows(2, VISION_WIDTH))})
    expected = naive.image_rows(model, image, plan)[:, -2:]
    assert difference(model.encode_image_and_prompt(image, plan)[1], expected) < EXACT


def test_no_rows_are_no_plan(model: CLIP) -> None:
    """What it means that the second path is off."""
    texts, image = Texts.from_names(NAMES), images()
    plans = [inserted([1, 2], width, length=0) for width in (TEXT_WIDTH, VISION_WIDTH)]
    assert torch.equal(model.encode_text(texts, plans[0]), model.encode_text(texts))
    features, rows = model.encode_image_and_prompt(image, plans[1])
    assert difference(features, model.encode_image(image)) < 1e-12 and rows.shape == (2, 0, VISION_WIDTH)


def test_unshared_rows_are_inserted(model: CLIP) -> None:
    """Query, key and value of the layer that inserts may be others than what stays in the residual stream."""
    texts, image = Texts.from_names(NAMES), images()
    text, vision = (
        PromptPlan(prompt_rows(0, width), {1: LayerPrompt(*(prompt_rows(2, width) for _ in range(4)))})
        for width in (TEXT_WIDTH, VISION_WIDTH)
    )
    expected = naive.encode_text(model, naive.padded_ids(texts), text)
    assert difference(model.encode_text(texts, text), expected) < EXACT
    assert difference(model.encode_image(image, vision), naive.encode_image(model, image, vision)) < EXACT


def test_an_empty_context_per_image(model: CLIP) -> None:
    """Several groups of texts, each with the inserted rows."""
    texts, rows = Texts.from_names(NAMES), {layer: prompt_rows(2, TEXT_WIDTH) for layer in (1, 2)}
    plan = PromptPlan.inserted(rows)
    groups = PromptPlan(PerImage(torch.zeros(3, 0, TEXT_WIDTH, dtype=torch.float64)), plan.layers)
    found, expected = model.encode_text(texts, groups), model.encode_text(texts, plan)
    assert difference(found, expected.expand(3, -1, -1)) < 1e-12


def test_plans_that_cannot_be_inserted(model: CLIP) -> None:
    texts, rows = Texts.from_names(NAMES), prompt_rows(2, TEXT_WIDTH)
    with pytest.raises(ValueError, match="must have the input's length 2"):
        model.encode_text(texts, PromptPlan.inserted({1: rows, 2: prompt_rows(3, TEXT_WIDTH)}))
    with pytest.raises(ValueError, match="first layer needs a residual"):
        model.encode_text(texts, PromptPlan(rows[:0], {1: LayerPrompt(rows, rows, rows)}))
    with pytest.raises(ValueError, match="depth 4 is larger than the encoder's 3 layers"):
        model.encode_text(texts, PromptPlan.inserted({LAYERS: rows}))
    with pytest.raises(ValueError, match="choose a ViT"):
        CLIP(64, 32, (1, 1, 1, 1), 8, None, 77, 99, 64, 1, 1).encode_image_and_prompt(images(), PromptPlan(rows))
