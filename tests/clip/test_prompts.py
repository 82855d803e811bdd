"""Prompts in both encoders equal the plain computation, in fp64, gradients included."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest
import torch

import clip
from benchmarks import naive
from clip.model import CLIP, ResidualAttentionBlock
from clip.prompts import LayerPrompt, PerClass, PerImage, PromptPlan, write_slots
from clip.text import Texts

from .small import (
    LAYERS,
    SIZE,
    TEXT_WIDTH,
    VISION_WIDTH,
    deep_plan,
    difference,
    disagreement,
    prompt_rows,
    tensors,
)

FORMS = ("shared", "carry", "query")
NAMES = ["cat", "golden retriever", "annual crop land", "a"]
EXACT = 1e-9


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("start", [0, 1, 3])
def test_write_slots_replaces_rows_in_front_in_the_middle_and_at_the_end(start: int) -> None:
    x, rows = torch.randn(2, 5, 4), torch.randn(2, 4)
    found = write_slots(x, start, rows)
    for row in range(5):
        inside = start <= row < start + 2
        assert torch.equal(found[:, row], rows[row - start].expand(2, -1) if inside else x[:, row])


def test_write_slots_appends_rows_per_image_and_keeps_the_dtype() -> None:
    x, rows = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 2, 4)
    found = write_slots(x, 3, rows)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.cat([x, rows.double()], dim=1))


def test_map_calls_once_per_tensor_and_keeps_what_is_shared() -> None:
    calls = []
    rows = torch.zeros(2, 3)
    found = LayerPrompt(rows, rows, torch.ones(2, 3)).map(lambda t: calls.append(t) or t + 1)
    assert len(calls) == 2
    assert found.query is found.key and found.value is not found.key and found.residual is None


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [1, 2, LAYERS])
@pytest.mark.parametrize("length", [1, 4])
def test_vision_prompts_equal_the_plain_computation(model: CLIP, form: str, depth: int, length: int) -> None:
    image, plan = images(), deep_plan(prompt_rows(length, VISION_WIDTH), depth, form)
    found = disagreement(
        lambda: model.encode_image(image, plan), lambda: naive.encode_image(model, image, plan), tensors(plan)
    )
    assert found < EXACT


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depth", [1, 2, LAYERS])
@pytest.mark.parametrize("length", [1, 4])
def test_text_prompts_equal_the_plain_computation(model: CLIP, form: str, depth: int, length: int) -> None:
    texts = Texts.from_names(NAMES, num_ctx=length)
    plan = deep_plan(prompt_rows(length, TEXT_WIDTH), depth, form)
    found = disagreement(
        lambda: model.encode_text(texts, plan),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan),
        tensors(plan),
    )
    assert found < EXACT


@pytest.mark.parametrize("form", FORMS)
def test_prompted_logits_equal_the_plain_computation(model: CLIP, form: str) -> None:
    image, texts = images(), Texts.from_names(NAMES, num_ctx=2)
    text_plan = deep_plan(prompt_rows(2, TEXT_WIDTH), 2, form)
    vision_plan = deep_plan(prompt_rows(2, VISION_WIDTH), 2, form)
    ids = naive.padded_ids(texts)
    found = disagreement(
        lambda: naive.logits(model, model.encode_image(image, vision_plan), model.encode_text(texts, text_plan)),
        lambda: naive.logits(
            model, naive.encode_image(model, image, vision_plan), naive.encode_text(model, ids, text_plan)
        ),
        tensors(text_plan) + tensors(vision_plan),
    )
    assert found < EXACT


def both_encoders(model: CLIP, text_plan: PromptPlan, vision_plan: PromptPlan) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    texts = Texts.from_names(NAMES, num_ctx=text_plan.length)
    return model.encode_text(texts, text_plan), model.encode_image(images(), vision_plan)


@pytest.mark.parametrize("depth", [1, 2, LAYERS])
def test_equal_unshared_prompts_are_shared_prompts(model: CLIP, depth: int) -> None:
    plans = [deep_plan(prompt_rows(3, width), depth, "shared") for width in (TEXT_WIDTH, VISION_WIDTH)]
    copies = [
        PromptPlan(p.input, {i: LayerPrompt(*(v.query.clone() for _ in range(4))) for i, v in p.layers.items()})
        for p in plans
    ]
    for found, expected in zip(both_encoders(model, *copies), both_encoders(model, *plans)):
        assert difference(found, expected) < 1e-12


def test_unshared_prompts_matter(model: CLIP) -> None:
    """The three views, each on its own, change the features: none is ignored."""
    plan = deep_plan(prompt_rows(3, VISION_WIDTH), LAYERS, "carry")
    image = images()
    expected = model.encode_image(image, plan)
    for view in ("query", "key", "value"):
        views = {name: getattr(plan.layers[0], name) for name in ("query", "key", "value")} | {
            view: prompt_rows(3, VISION_WIDTH)
        }
        changed = PromptPlan(plan.input, {**plan.layers, 0: LayerPrompt(**views)})
        # With prompts in all layers nothing reads what the prompt rows attended to: the query alone has no effect.
        assert (difference(model.encode_image(image, changed), expected) > 1e-6) == (view != "query")


@pytest.mark.parametrize("form", FORMS)
def test_prompts_of_length_0_change_nothing(model: CLIP, form: str) -> None:
    texts = Texts.from_names(NAMES)
    text_plan, vision_plan = (deep_plan(prompt_rows(0, width), 2, form) for width in (TEXT_WIDTH, VISION_WIDTH))
    image = images()
    assert difference(model.encode_image(image, vision_plan), naive.encode_image(model, image)) < 1e-12
    plain = naive.encode_text(model, clip.tokenize([f"{name}." for name in NAMES]).long())
    assert difference(model.encode_text(texts, text_plan), plain) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_vision_prompts_per_image_equal_image_by_image(model: CLIP, form: str) -> None:
    image = images(3)
    plans = [deep_plan(prompt_rows(2, VISION_WIDTH), 2, form) for _ in image]

    def stacked(index: int, view: str) -> torch.Tensor | None:
        rows = [getattr(plan.layers[index], view) for plan in plans]
        return None if rows[0] is None else torch.stack(rows)

    views = ("query", "key", "value", "residual")
    together = PromptPlan(
        PerImage(torch.stack([plan.input.rows for plan in plans])),
        {index: LayerPrompt(*(stacked(index, view) for view in views)) for index in plans[0].layers},
    )
    found = disagreement(
        lambda: model.encode_image(image, together),
        lambda: torch.cat([naive.encode_image(model, one[None], plan) for one, plan in zip(image, plans)]),
        [tensor for plan in plans for tensor in tensors(plan)],
    )
    assert found < EXACT


def test_rows_that_nobody_reads_are_not_computed(model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt rows that the next layer replaces, and all but [CLS] in the last layer; same features (tests above)."""
    finished = []
    finish = ResidualAttentionBlock.finish

    def count(block: ResidualAttentionBlock, x: torch.Tensor, *others: object) -> torch.Tensor:
        finished.append(x.shape[1])
        return finish(block, x, *others)

    monkeypatch.setattr(ResidualAttentionBlock, "finish", count)
    rows = (SIZE // 8) ** 2 + 1
    for form, expected in {"query": [rows, rows, 1], "carry": [rows + 4, rows + 4, 1]}.items():
        finished.clear()
        model.encode_image(images(), deep_plan(prompt_rows(4, VISION_WIDTH), LAYERS, form))
        assert finished == expected


def test_queries_get_a_gradient_only_where_the_residual_stream_carries_them(model: CLIP) -> None:
    """What a method may leave out of its optimiser (design of RPP): checked on P_q of each layer."""
    image = images()

    def learns(form: str, depth: int) -> list[bool]:
        plan = deep_plan(prompt_rows(2, VISION_WIDTH), depth, form)
        queries = [layer.query for layer in plan.layers.values()]
        gradients = torch.autograd.grad(model.encode_image(image, plan).sum(), queries, allow_unused=True)
        return [g is not None and bool(g.abs().max() > 0) for g in gradients]

    assert learns("carry", LAYERS - 1) == [True, True]
    assert learns("carry", LAYERS) == [False, False, False]
    assert learns("query", LAYERS - 1) == [False, True]
    assert learns("query", LAYERS) == [False, False, False]


def test_plans_that_do_not_fit_are_refused(model: CLIP) -> None:
    texts, image = Texts.from_names(NAMES, num_ctx=2), images()
    right, wrong = prompt_rows(2, TEXT_WIDTH), prompt_rows(2, VISION_WIDTH)
    with pytest.raises(ValueError, match="width \\[192\\] do not fit an encoder of width 128"):
        model.encode_text(texts, PromptPlan(wrong))
    with pytest.raises(ValueError, match="width \\[128\\] do not fit an encoder of width 192"):
        model.encode_image(image, PromptPlan(right))
    with pytest.raises(ValueError, match="depth 4 is larger than the encoder's 3 layers"):
        model.encode_text(texts, deep_plan(right, LAYERS + 1, "carry"))
    with pytest.raises(ValueError, match="length 2"):
        model.encode_text(texts, PromptPlan(right, {1: LayerPrompt.shared(prompt_rows(3, TEXT_WIDTH))}))
    with pytest.raises(ValueError, match="length 2"):
        rows = prompt_rows(2, TEXT_WIDTH)
        model.encode_text(texts, PromptPlan(right, {1: LayerPrompt(rows, rows, rows, prompt_rows(1, TEXT_WIDTH))}))


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("names", [NAMES, ["cat"]])
def test_deep_text_prompts_need_the_context_before_the_name(model: CLIP, position: str, names: list[str]) -> None:
    texts = Texts.from_names(names, num_ctx=2, position=position)
    with pytest.raises(ValueError, match="before the class name"):
        model.encode_text(texts, deep_plan(prompt_rows(2, TEXT_WIDTH), 2, "shared"))


def test_deep_text_prompts_need_a_context_that_all_classes_share(model: CLIP) -> None:
    texts = Texts.from_names(NAMES, num_ctx=2)
    plan = deep_plan(prompt_rows(2, TEXT_WIDTH), 2, "shared")
    with pytest.raises(ValueError, match="all classes share"):
        model.encode_text(texts, PromptPlan(PerClass(prompt_rows(len(NAMES), 2, TEXT_WIDTH)), plan.layers))


@pytest.mark.parametrize("layer", [1, LAYERS - 1])
@pytest.mark.parametrize("memory_gb", [None, 1e-9], ids=["at once", "one by one"])
@pytest.mark.parametrize("which", [[0, 1, 2, 3], [2, 0]], ids=["all", "some"])
def test_text_prompts_per_class_equal_the_plain_computation(
    model: CLIP, layer: int, memory_gb: float | None, which: list[int]
) -> None:
    texts, shape = Texts.from_names(NAMES, num_ctx=2), (len(NAMES), 2, TEXT_WIDTH)
    plan = PromptPlan(PerClass(prompt_rows(*shape)), {layer: LayerPrompt.shared(prompt_rows(*shape))})
    some = torch.tensor(which)
    found = disagreement(
        lambda: model.encode_text(texts.select(some), plan.select(some), memory_gb),
        lambda: naive.encode_text(model, naive.padded_ids(texts), plan)[some],
        tensors(plan),
    )
    assert found < EXACT


@pytest.mark.parametrize("layer", [0, 1])
def test_text_prompts_per_class_replace_the_residual_stream_of_a_deeper_layer(model: CLIP, layer: int) -> None:
    rows = prompt_rows(len(NAMES), 2, TEXT_WIDTH)
    prompt = LayerPrompt.shared(rows) if layer == 0 else LayerPrompt(rows, rows, rows)
    with pytest.raises(ValueError, match="from layer 1 on"):
        model.encode_text(Texts.from_names(NAMES, num_ctx=2), PromptPlan(PerClass(rows), {layer: prompt}))


def test_context_must_fit_the_texts(model: CLIP) -> None:
    texts = Texts.from_names(NAMES, num_ctx=2)
    with pytest.raises(ValueError, match=r"2 context slots.* 3 context tokens"):
        model.encode_text(texts, PromptPlan(prompt_rows(3, TEXT_WIDTH)))
    with pytest.raises(ValueError, match=r"2 context slots.* 0 context tokens"):
        model.encode_text(texts)
    with pytest.raises(ValueError, match=r"5 contexts.* 4 texts"):
        model.encode_text(texts, PromptPlan(PerClass(prompt_rows(5, 2, TEXT_WIDTH))))


def test_whose_a_prompt_is_must_be_said() -> None:
    """A rank alone does not: (3, 2, D) may be three classes' contexts, or three images'."""
    with pytest.raises(ValueError, match=r"ForAll takes .*\(P, D\), but got \(3, 2, 128\).*PerClass.*PerImage"):
        PromptPlan(prompt_rows(3, 2, TEXT_WIDTH))
    with pytest.raises(ValueError, match=r"PerImage takes .*\(B, P, D\), but got \(3, 1, 2, 128\)"):
        PerImage(prompt_rows(3, 1, 2, TEXT_WIDTH))


def test_images_take_no_prompt_per_class(model: CLIP) -> None:
    with pytest.raises(ValueError, match="Images have no class"):
        model.encode_image(images(3), PromptPlan(PerClass(prompt_rows(3, 2, VISION_WIDTH))))


def test_plans_that_hold_equal_numbers_are_not_equal() -> None:
    """To compare what holds tensors is to ask whether it is the same thing."""
    rows = prompt_rows(2, TEXT_WIDTH)
    for make in (LayerPrompt.shared, PromptPlan, lambda rows: PerImage(rows[None])):
        one, other = make(rows), make(rows)
        assert one == one and one != other and len({one, other}) == 2
    texts = Texts.from_names(NAMES)
    assert texts != Texts.from_names(NAMES) and texts in [texts]
    layout = [value for value in vars(clip.packing).values() if is_dataclass(value)]
    assert len(layout) == 4 and all(one.__eq__ is object.__eq__ for one in layout)
