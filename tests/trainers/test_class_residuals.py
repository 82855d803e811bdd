"""Methods with a residual per class on its hand-written feature: the published numbers, and whose a residual is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.clip.small import difference

from .world import CLASSNAMES, Make, batch, equal, randomise, state

METHOD = pytest.mark.parametrize("name", ["TaskRes"])
RESIDUAL = [[0.1, -0.1, 0.2], [0, 0.2, 0], [-0.1, 0, 0.1]]


def golden() -> tuple[Tensor, Tensor, SimpleNamespace]:
    """Two images' features, three residuals, and what else a method asks of a classifier with the scale 10."""
    image, text = (
        normalize(torch.tensor(rows, dtype=torch.float64), dim=1)
        for rows in ([[1, 2, 2], [2, -1, 2]], [[1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0]])
    )
    classifier = SimpleNamespace(
        classnames=["a", "b", "c"],
        template="",
        ensemble=(),
        trained_columns=torch.arange(3),
        zeroshot=lambda *_, **__: text,
        encode_image=lambda image: image,
        cosine_logits=lambda image, text: 10 * image @ text.t(),
    )
    return image, torch.tensor(RESIDUAL, dtype=torch.float64), classifier


def test_the_published_equation(make: Make) -> None:
    """By hand, for two images and three classes."""
    image, residual, classifier = golden()
    method = make("TaskRes", {"ALPHA": 0.5}).model.method.double()
    method.residual = torch.nn.Parameter(residual)
    expected = [[5.9148347, 8.8144618, 6.4059467], [9.2535877, -0.3057094, 4.6738227]]
    assert difference(method.logits(classifier, image), torch.tensor(expected, dtype=torch.float64)) < 1e-7


@METHOD
def test_without_residuals_it_is_zero_shot_clip(name: str, make: Make) -> None:
    """So at first, and if they count for nothing."""
    image = batch()[0]
    with torch.no_grad():
        expected = make("ZeroshotCLIP").model(image)
        assert difference(make(name).model(image), expected) < 1e-6
        assert difference(randomise(make(name)).model(image), expected) > 1e-3
        if name == "TaskRes":
            assert difference(randomise(make(name, {"ALPHA": 0.0})).model(image), expected) < 1e-6


@METHOD
def test_residuals_follow_class_names(name: str, make: Make) -> None:
    """In another order, with others between: a class has its own, one that was not trained on none."""
    trainer, image = randomise(make(name), 3.0), batch()[0]
    with torch.no_grad():
        before = trainer.model(image)
        trainer.model.set_classnames(["sky", *CLASSNAMES[:0:-1]])
        after, zero_shot = trainer.model(image), make("ZeroshotCLIP").model
        zero_shot.set_classnames(["sky"])
        assert difference(after[:, 1:], before[:, 1:].flip(1)) < 1e-5
        assert difference(after[:, :1], zero_shot(image)) < 1e-5
        assert difference(trainer.model(image, torch.tensor([3, 1])), after[:, [3, 1]]) < 1e-5


@METHOD
def test_training_starts_from_those_of_the_same_classes(name: str, make: Make, tmp_path: Path) -> None:
    base = randomise(make(name, None, "DATASET.SUBSAMPLE_CLASSES", "base"))
    base.save_model(0, str(tmp_path))
    start = ("TRAINER.INIT_PROMPTS", str(tmp_path))
    assert equal(state(make(name, None, "DATASET.SUBSAMPLE_CLASSES", "base", *start)), state(base))
    residual = make(name, None, *start).model.method.residual
    assert torch.equal(residual[:3], base.model.method.residual) and not residual[3:].any()
