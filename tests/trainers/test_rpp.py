"""RPP: what its options mean, and which prompts can learn."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
import torch

from tests.clip.small import LAYERS, difference

from .world import Make, batch, in_double, learnable, randomise, terms

DEPTHS = {"PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": LAYERS, "N_CTX_TEXT": 2, "N_CTX_VISION": 3}
VIEWS = ("query", "key", "value")


@pytest.mark.parametrize("qkv", ["qkv", "kv", "shared"])
def test_tied_prompts_in_the_residual_stream_are_ivlp(qkv: str, make: Make) -> None:
    """The same logits and loss, and IVLP's gradient is the sum of the views' own."""
    image, label = batch(dtype=torch.float64)
    ivlp = randomise(in_double(make("IVLP", DEPTHS)))
    rpp = in_double(make("RPP", {**DEPTHS, "QKV": qkv, "RESIDUAL": "query", "LAMBDA": 0.0}))
    with torch.no_grad():
        for encoder, views in rpp.model.method.named_children():
            for prompts in views.values():
                for prompt, source in zip(prompts, getattr(ivlp.model.method, encoder)):
                    prompt.requires_grad_().copy_(source)
    losses = [terms(trainer, image, label)["ce_loss"] for trainer in (ivlp, rpp)]
    torch.stack(losses).sum().backward()
    assert difference(rpp.model(image), ivlp.model(image)) < 1e-9
    assert difference(losses[1], losses[0]) < 1e-9
    for encoder, views in rpp.model.method.named_children():
        for layer, prompt in enumerate(getattr(ivlp.model.method, encoder)):
            gradients = [prompts[layer].grad for prompts in views.values() if prompts[layer].grad is not None]
            assert difference(sum(gradients), prompt.grad) < 1e-9


@pytest.mark.parametrize("residual", ["carry", "query"])
@pytest.mark.parametrize("qkv", ["qkv", "kv", "shared"])
@pytest.mark.parametrize(("text_depth", "vision_depth"), [(1, 2), (2, LAYERS), (LAYERS, 1), (LAYERS, LAYERS)])
def test_prompts_without_a_gradient_are_not_learned(
    qkv: str, residual: str, text_depth: int, vision_depth: int, make: Make
) -> None:
    """A query is unread if its rows are replaced by the next layer, or if no layer attends to them afterwards."""
    settings = {**DEPTHS, "PROMPT_DEPTH_TEXT": text_depth, "PROMPT_DEPTH_VISION": vision_depth}
    trainer = make("RPP", {**settings, "QKV": qkv, "RESIDUAL": residual, "LAMBDA": 0.0})
    unread = set()
    if qkv == "qkv":
        for encoder, depth in (("text", text_depth), ("vision", vision_depth)):
            last = depth if depth == LAYERS else depth - 1 if residual == "query" else 0
            unread |= {f"{encoder}.query.{layer}" for layer in range(last)}
    parameters = learnable(randomise(trainer))
    assert {key for key, p in parameters.items() if not p.requires_grad} == unread
    optimised = {id(p) for group in trainer.optim.param_groups for p in group["params"]}
    assert optimised == {id(p) for key, p in parameters.items() if key not in unread}
    for p in parameters.values():
        p.requires_grad_()
    sum(terms(trainer, *batch())[name] for name in ("ce_loss",)).backward()
    without = {key for key, p in parameters.items() if p.grad is None or not p.grad.any()}
    assert without == unread


def test_number_of_tensors_by_form(make: Make) -> None:
    found = {form: len(learnable(make("RPP", {**DEPTHS, "QKV": form}))) for form in ("qkv", "kv", "shared")}
    assert found == {"qkv": 3 * (2 + LAYERS), "kv": 2 * (2 + LAYERS), "shared": 2 + LAYERS}


def test_context_starts_from_the_phrase_in_every_view(make: Make) -> None:
    trainer = make("RPP", {**DEPTHS, "N_CTX_TEXT": 4})
    words = trainer.model.clip.token_embedding(torch.tensor([320, 1125, 539, 320]))  # a photo of a
    text = trainer.model.method.text
    assert all(torch.equal(text[view][0], words) for view in VIEWS)
    deeper = [text[view][1] for view in VIEWS]
    assert not any(torch.equal(a, b) for a, b in pairwise(deeper))
    random = torch.cat([p.flatten() for p in [*deeper, *trainer.model.method.vision.parameters()]])
    assert abs(random.std().item() - 0.02) < 0.001
    assert abs(random.mean().item()) < 0.001


@pytest.mark.parametrize("settings", [{"N_CTX_TEXT": 5}, {"N_CTX_TEXT": 2, "CTX_INIT": ""}])
def test_a_random_context_is_drawn_per_view(settings: dict, make: Make) -> None:
    text = make("RPP", {**DEPTHS, **settings}).model.method.text
    first = [text[view][0] for view in VIEWS]
    assert not any(torch.equal(a, b) for a, b in combinations(first, 2))
    assert all(0.015 < rows.std() < 0.025 for rows in first)


def test_the_teachers_words_leave_nothing_to_distil(make: Make) -> None:
    """Depth 1, text only, starting from the teacher's template: the student is the teacher."""
    settings = {"N_CTX_TEXT": 4, "PROMPT_DEPTH_TEXT": 1, "PROMPT_DEPTH_VISION": 0, "CTX_INIT": "a_photo_of_a"}
    settings["TEACHER.TEMPLATES"] = "a photo of a {}."
    trainer = make("RPP", settings)
    image, label = batch()
    found = terms(trainer, image, label)
    assert 0 <= found["kd_loss"].abs() < 1e-6
    assert difference(trainer.model(image), trainer.model.method.teacher.logits(image)) < 1e-5
    different = terms(make("RPP", {**settings, "CTX_INIT": "art of the big"}), image, label)
    assert different["kd_loss"] > 1e-4


def test_both_loss_terms_are_logged(make: Make) -> None:
    trainer = make("RPP", {"LAMBDA": 0.5})
    trainer.batch_idx, trainer.num_batches = 0, 2
    image, label = batch()
    summary = trainer.forward_backward({"img": image, "label": label})
    assert summary.keys() == {"loss", "ce_loss", "kd_loss", "acc"}
    assert torch.isclose(summary["loss"], summary["ce_loss"] + summary["kd_loss"])


def test_lambda_and_temperature_scale_the_distillation(make: Make) -> None:
    image, label = batch()

    def distilled(**settings: float) -> float:
        return terms(make("RPP", settings), image, label)["kd_loss"].item()

    assert distilled(LAMBDA=3.0) == pytest.approx(3 * distilled(LAMBDA=1.0), rel=1e-5)
    assert distilled(TEMPERATURE=4.0) != pytest.approx(distilled(TEMPERATURE=1.0), rel=1e-2)
    assert make("RPP", {"LAMBDA": 0.0}).model.method.teacher is None


def test_an_encoder_can_be_left_alone(make: Make) -> None:
    text_only, vision_only = make("RPP", {"PROMPT_DEPTH_VISION": 0}), make("RPP", {"PROMPT_DEPTH_TEXT": 0})
    assert {key.split(".")[0] for key in learnable(text_only)} == {"text"}
    assert {key.split(".")[0] for key in learnable(vision_only)} == {"vision"}
