"""The frozen teacher: its features, templates, resolution; nothing is learned through it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from clip.clip import load_model
from tests.clip.small import difference
from trainers.teacher import distillation

from . import plain
from .world import CLASSNAMES, Make, Swatches, batch, losses, save_clip, terms

SEVEN = [
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
]
TEMPLATES = {
    "a photo of a {}.": ["a photo of a {}."],
    "dataset": [Swatches.template],
    "ensemble": [*SEVEN, Swatches.template],
}


@pytest.mark.parametrize(("option", "templates"), TEMPLATES.items())
def test_templates(option: str, templates: list[str], make: Make) -> None:
    trainer = make("RPP", {"TEACHER.TEMPLATES": option})
    image, _ = batch()
    expected = plain.zeroshot_logits(trainer.model.clip, image, CLASSNAMES, templates)
    assert difference(trainer.model.method.teacher.logits(image), expected) < 1e-5
    some = torch.tensor([4, 1])
    classes, _ = trainer.model.subset(some)
    assert torch.allclose(trainer.model.method.teacher.logits(image, classes), expected[:, some], atol=1e-4)


def test_template_needs_a_place_for_the_name(make: Make) -> None:
    with pytest.raises(ValueError, match=r"TEACHER.TEMPLATES must be dataset, ensemble or a text with \{\}"):
        make("RPP", {"TEACHER.TEMPLATES": "a photo"})


def test_the_students_clip_is_not_loaded_twice(make: Make) -> None:
    trainer = make("RPP")
    assert trainer.model.method.teacher.classifier.clip is trainer.model.clip


def test_nothing_is_learned_through_the_teacher(make: Make) -> None:
    trainer = make("RPP")
    image, label = batch()
    assert not trainer.model.method.teacher.logits(image).requires_grad
    sum(losses(trainer, image, label).values()).backward()
    frozen = trainer.model.method.teacher.classifier.clip.parameters()
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_another_backbone_sees_the_same_view_at_its_own_resolution(make: Make, tmp_path: Path) -> None:
    path = save_clip(
        tmp_path,
        "teacher",
        image_resolution=48,
        vision_patch_size=16,
        embed_dim=96,
        transformer_width=64,
        transformer_heads=1,
    )
    trainer = make("RPP", {"TEACHER.PATH": path, "TEACHER.TEMPLATES": "a photo of a {}."})
    image, label = batch()
    resized = F.interpolate(image, size=(48, 48), mode="bicubic", antialias=True)
    expected = plain.zeroshot_logits(load_model(path=path), resized, CLASSNAMES, ["a photo of a {}."])
    assert difference(trainer.model.method.teacher.logits(image), expected) < 1e-5
    found = terms(trainer, image, label)
    assert torch.isclose(found["kd_loss"], plain.kl_divergence(expected, trainer.model(image), 1.0), rtol=1e-4)
    assert not any(key.startswith("teacher") for key in trainer.model.state_dict())
    trainer.model.set_classnames(["sky", "sea"])
    expected = plain.zeroshot_logits(load_model(path=path), resized, ["sky", "sea"], ["a photo of a {}."])
    assert difference(trainer.model.method.teacher.logits(image), expected) < 1e-5


def test_class_features_are_computed_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make("RPP").model.method.teacher
    before = teacher.logits(batch()[0])
    monkeypatch.setattr(type(teacher.classifier.clip), "encode_text", None)
    assert torch.equal(teacher.logits(batch()[0]), before)


@given(st.floats(0.3, 5.0), st.integers(2, 9), st.integers(0, 50))
def test_distillation_is_a_divergence(temperature: float, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    student, teacher = torch.randn(2, 4, classes, dtype=torch.float64) * 5
    value = distillation(student, teacher, temperature)
    assert torch.isclose(value, plain.kl_divergence(teacher, student, temperature), rtol=1e-9)
    assert value > 0
    assert distillation(teacher + 3, teacher, temperature).abs() < 1e-12  # the softmax does not see a shift


@pytest.mark.parametrize("temperature", [1e-3, 2.0, 1e6])
def test_distillation_leaves_masked_columns_out(temperature: float) -> None:
    """Value and gradient, whatever the temperature: a mask that were divided by it would come back at a high one."""
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64)
    student.requires_grad_()
    masked = torch.zeros(3, 6, dtype=torch.bool).index_fill_(1, torch.tensor([5]), True)
    wide = [torch.nn.functional.pad(logits, (0, 1), value=1e3) for logits in (student, teacher)]
    found, expected = distillation(*wide, temperature, masked), distillation(student, teacher, temperature)
    assert torch.isclose(found, expected, rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(value, student)[0] for value in (found, expected)]
    assert difference(*gradients) < 1e-9
