"""Zero-shot CLIP against the plain computation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.clip.small import difference
from trainers import load_classifier

from . import plain
from .test_teacher import SEVEN
from .world import CLASSNAMES, Make, Swatches, batch


@pytest.mark.parametrize("repetition", [1, 2])
@pytest.mark.parametrize(
    ("method", "templates"), [("ZeroshotCLIP", [Swatches.template]), ("ZeroshotCLIP2", [*SEVEN, Swatches.template])]
)
def test_logits(method: str, templates: list[str], repetition: int, make: Make) -> None:
    """Also when built a second time: the list of templates must not grow."""
    for _ in range(repetition):
        trainer = make(method)
    image, _ = batch()
    assert (
        difference(
            trainer.model_inference(image), plain.zeroshot_logits(trainer.model.clip, image, CLASSNAMES, templates)
        )
        < 1e-5
    )


def test_own_template(make: Make) -> None:
    trainer = make("ZeroshotCLIP", None, "DATASET.TEMPLATE", "a drawing of {}.")
    image, _ = batch()
    expected = plain.zeroshot_logits(trainer.model.clip, image, CLASSNAMES, ["a drawing of {}."])
    assert difference(trainer.model_inference(image), expected) < 1e-5


def test_prediction_uses_the_template_of_the_run(make: Make) -> None:
    """The config's own, else the one that its record has; what the registry of data sets holds does not matter."""
    trainer = make("ZeroshotCLIP")
    trainer.train()
    image, _ = batch()
    for opts, template in ((), Swatches.template), (("DATASET.TEMPLATE", "my {}."), "my {}."):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Swatches, "template", "another {}.")
            classifier = load_classifier(trainer.output_dir, ["red", "teal"], opts=opts)
        expected = plain.zeroshot_logits(trainer.model.clip, image, ["red", "teal"], [template])
        assert difference(classifier(image), expected) < 1e-5


def test_template_without_the_name(make: Make) -> None:
    with pytest.raises(ValueError, match=r"DATASET.TEMPLATE .* has no {}"):
        make("ZeroshotCLIP", None, "DATASET.TEMPLATE", "a drawing")


def test_training_only_evaluates(make: Make, tmp_path: Path) -> None:
    make("ZeroshotCLIP").train()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["results"]["test"]["total"] == 2 * len(CLASSNAMES)
    assert metrics["trainable_parameters"] == 0
    assert metrics["status"] == "finished"


def test_ensemble_of_a_data_set_without_templates(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set written for another engine brings none: its one template is the ensemble."""
    monkeypatch.setattr(Swatches, "templates", ())
    image, _ = batch()
    assert torch.equal(make("ZeroshotCLIP2").model_inference(image), make("ZeroshotCLIP").model_inference(image))
    teacher = make("RPP", {"TEACHER.TEMPLATES": "ensemble"}).model.method.teacher
    other = make("RPP", {"TEACHER.TEMPLATES": "dataset"}).model.method.teacher
    assert torch.equal(teacher.logits(image), other.logits(image))
