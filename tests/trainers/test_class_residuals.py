"""Methods with a residual per class on its hand-written feature: the published numbers, and whose a residual is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.clip.small import difference
from trainers.method import Batch

from .world import CLASSNAMES, Make, batch, equal, randomise, state, step

METHOD = pytest.mark.parametrize("name", ["TaskRes", "ZSLP", "CLAP"])
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
        rows_of_now=lambda rows: rows,
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


def test_the_published_loss(make: Make) -> None:
    """CLAP's terms by hand, with a given trust in each class; labels 1 and 0."""
    image, residual, classifier = golden()
    method = make("CLAP").model.method.double()
    method.residual = torch.nn.Parameter(residual)
    method.trust = torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    found = method.loss(classifier, Batch.of(image, torch.tensor([1, 0])))
    assert found["ce_loss"].item() == pytest.approx(0.10400280847712207, abs=1e-12)
    assert found["near_loss"].item() == pytest.approx(0.026, abs=1e-12)


def test_trust_is_the_mean_probability_of_the_true_class(make: Make) -> None:
    """Zero-shot CLIP's on the shots of each class, over several views of each; for classes without shots none."""
    trainer = make("CLAP", {"PASSES": 3}, "INPUT.TRANSFORMS", ("random_resized_crop", "normalize"))
    features, label = trainer.image_sets.features("train", 3)
    zero_shot = make("ZeroshotCLIP").model
    expected = []
    for kind in range(len(CLASSNAMES)):
        views = normalize(features[:, label == kind].flatten(0, 1), dim=1)
        expected.append(zero_shot(views).softmax(1)[:, kind].mean())
    assert features[0].ne(features[1]).any() and max(expected) > 2 * min(expected)
    assert difference(trainer.model.method.trust, torch.stack(expected)) < 1e-6
    trainer.model.set_classnames([*CLASSNAMES, "sky"])
    trainer.model.method.begin(trainer.model, trainer.image_sets)
    assert trainer.model.method.trust[6] == 0 < trainer.model.method.trust[5]


def test_it_is_fixed_and_the_same_after_an_interruption(make: Make) -> None:
    """It is made anew from the same views, so that no file holds it."""
    trainer = make("CLAP", {"PASSES": 2}, "INPUT.TRANSFORMS", ("random_resized_crop", "normalize"))
    before = trainer.model.method.trust.clone()
    step(trainer, *batch())
    trainer.model.method.begin(trainer.model, trainer.image_sets)
    assert torch.equal(trainer.model.method.trust, before) and "trust" not in state(trainer)


def test_files_of_the_authors(make: Make, tmp_path: Path) -> None:
    """They hold the prototypes, and the hand-written features that these started from."""
    trainer = randomise(make("ZSLP"))
    base = 7 * torch.randn(6, trainer.model.clip.embed_dim)
    content = {"prototypes": base + trainer.model.method.residual, "base_text_features": base}
    (folder := tmp_path / "adapter").mkdir()
    torch.save(
        {"state_dict": {**content, "logit_scale": torch.tensor(4.6)}, "epoch": 300}, folder / "model.pth.tar-300"
    )
    loaded = make("CLAP")
    loaded.load_model(str(tmp_path), 300)
    assert difference(loaded.model.method.residual, trainer.model.method.residual) < 1e-5


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
