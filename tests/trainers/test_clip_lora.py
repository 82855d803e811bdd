"""CLIP-LoRA: zero-shot CLIP at first; merged for evaluation; dropout in training; either encoder alone."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from clip import LowRank
from tests.clip.small import difference

from .world import Make, batch, randomise, state, step, summary


def test_it_starts_as_clip(make: Make) -> None:
    """Exactly: in training with dropout, too, and merged."""
    model, image = make("CLIPLoRA", {"DROPOUT": 0.5}).model, batch()[0]
    with torch.no_grad():
        expected = model.cosine_logits(model.encode_image(image), model.encode_text(None))
        for mode in (True, False):
            assert torch.equal(model.train(mode)(image), expected)


def test_merged_is_unmerged(make: Make) -> None:
    """With gradients nothing is merged; without, images meet merged weights, made once until a step is made."""
    trainer, image = randomise(make("CLIPLoRA")), batch()[0]
    for _ in range(2):
        trainer.set_model_mode("eval")
        expected = trainer.model(image)
        with torch.no_grad(), mock.patch.object(LowRank, "merged", autospec=True, side_effect=LowRank.merged) as merged:
            found = trainer.model(image)
            assert torch.equal(trainer.model(image), found)
        assert merged.call_count == trainer.model.clip.visual.transformer.layers
        assert difference(found, expected) < 1e-6
        with torch.no_grad(), mock.patch.object(LowRank, "project", side_effect=AssertionError):
            assert torch.equal(trainer.model(image), found)
        trainer.set_model_mode("train")
        summary(trainer, *batch())


def test_an_evaluation_notices_other_numbers(make: Make) -> None:
    """In A or in B alone; and one with gradients has those of both encoders."""
    model, image = randomise(make("CLIPLoRA")).model.eval(), batch()[0]
    with torch.no_grad():
        for name, parameter in model.method.named_parameters():
            before = model(image)
            parameter.mul_(1.5)
            assert difference(model(image), before) > 1e-3, name
    model(image).sum().backward()
    assert all(parameter.grad.any() for parameter in model.method.parameters())


def test_dropout_is_of_training_alone(make: Make) -> None:
    model, image = randomise(make("CLIPLoRA", {"DROPOUT": 0.5})).model, batch()[0]
    without = randomise(make("CLIPLoRA", {"DROPOUT": 0.0})).model
    without.method.load_state_dict(model.method.state_dict())
    assert difference(model.eval()(image), without.eval()(image)) < 1e-6
    first, second = (model.train()(image) for _ in range(2))
    assert difference(first, second) > 0.01


@pytest.mark.parametrize("memory_gb", [0.0, 1e-6])
def test_the_same_seed_makes_the_same_steps(memory_gb: float, make: Make) -> None:
    """Under dropout, and where texts are computed again in the backward pass."""
    learned = []
    for _ in range(2):
        trainer = make("CLIPLoRA", {"DROPOUT": 0.25}, *(("MODEL.TEXT_MEMORY_GB", memory_gb) if memory_gb else ()))
        torch.manual_seed(1)
        losses = [step(trainer, *batch()) for _ in range(3)]
        assert losses[2] < losses[0]
        learned.append(torch.cat([tensor.flatten() for tensor in state(trainer).values()]))
    assert torch.equal(*learned)


@pytest.mark.parametrize("encoder", ["text", "vision"])
def test_one_encoder(encoder: str, make: Make) -> None:
    trainer = make("CLIPLoRA", {"ENCODER": encoder})
    step(trainer, *batch())
    assert {key.split(".")[0] for key in state(trainer)} == {encoder}
    assert trainer.needs.images == (encoder == "vision")


def test_a_resnet_has_a_text_encoder_to_change(make: Make, resnet: str) -> None:
    trainer = make("CLIPLoRA", {"ENCODER": "text"}, "MODEL.BACKBONE.PATH", resnet)
    before = step(trainer, *batch())
    assert step(trainer, *batch()) < before


def test_everything_dropped_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TRAINER.CLIPLORA.DROPOUT must be less than 1, but is 1.0"):
        make("CLIPLoRA", {"DROPOUT": 1.0})
