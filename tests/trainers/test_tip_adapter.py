"""Tip-Adapter and Tip-Adapter-F: the cache, its classes, and what is chosen on validation images."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from tests.clip.small import difference
from trainers import PromptTrainer
from trainers.prompted_clip import unit

from .test_methods_plain import logits
from .world import CLASSNAMES, TRAINING_FREE, Make, Swatches, batch, equal, in_double, learnable, randomise, state

BOTH = pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
SMALL = {"PASSES": 2, "SEARCH_ALPHA": 9.0, "SEARCH_BETA": 9.0}
ENDED = ("OPTIM.MAX_EPOCH", 2, "DATASET.NUM_SHOTS", 2)


def test_the_published_equation(make: Make) -> None:
    """100 v w + 1.17 exp(-(1 - v F)) L for two images, three classes and four training images, by hand."""
    image, text, keys = (
        normalize(torch.tensor(rows, dtype=torch.float64), dim=1)
        for rows in (
            [[1, 2, 2], [2, -1, 2]],
            [[1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0]],
            [[1, 2, 1], [0, 1, 2], [2, 0, 1], [1, 1, 0]],
        )
    )
    method = make("TipAdapter", {"SEARCH": False}).model.method.double()
    method.keys, method.label = torch.nn.Parameter(keys), torch.tensor([1.0, 1.0, 0.0, 2.0]).double()
    method.features = lambda classifier, one, classes=None: (one, text)
    classifier = SimpleNamespace(
        classnames=["a", "b", "c"],
        trained_on=None,
        rows_of_now=lambda rows, _: rows,
        cosine_logits=lambda image, text: 100 * image @ text.t(),
    )
    expected = [[60.4098455, 91.6113084, 60.5014185], [90.4954956, 1.2382088, 45.2661827]]
    found = method.logits(classifier, image)
    assert difference(found, torch.tensor(expected, dtype=torch.float64)) < 1e-8
    cache = [[0.6678343, 1.8534951, 0.7461018], [0.899809, 1.0582981, 0.4656608]]
    assert difference((found - 100 * image @ text.t()) / 1.17, torch.tensor(cache, dtype=torch.float64)) < 1e-7


@pytest.mark.parametrize("name", TRAINING_FREE)
def test_equations_in_double(name: str, make: Make) -> None:
    """Those without steps of training; the others are in test_methods_plain.py."""
    trainer = randomise(in_double(make(name)))
    image = batch(dtype=torch.float64)[0]
    with torch.no_grad():
        assert difference(trainer.model(image), logits(trainer, learnable(trainer), image)) < 1e-9


@BOTH
def test_keys_are_means_of_augmented_views(name: str, make: Make) -> None:
    """Of features as they leave CLIP, normalised in the end; seeded."""
    trainer = make(name, SMALL)
    features, label = trainer.image_sets.features("train", 2)
    assert not torch.equal(*features)
    assert difference(trainer.model.method.keys, unit(features.mean(0))) < 1e-6
    assert torch.equal(trainer.model.method.label.long(), label) and len(label) == 4 * len(CLASSNAMES)
    assert equal(state(trainer), state(make(name, SMALL)))
    assert trainer.model.method.keys.requires_grad is (name == "TipAdapterF")


def by_hand(trainer: PromptTrainer) -> tuple[float, float]:
    """The first of the grid's ALPHA and BETA with the most validation images that are classified right."""
    features, label = trainer.image_sets.features("val")
    image, keys = unit(features[0]), trainer.model.method.keys
    zero_shot, most, best = trainer.model.clip.logit_scale.exp() * image @ trainer.model.zeroshot().t(), -1, None
    for j in range(200):
        for i in range(20):
            alpha, beta = 0.1 + i * 8.9 / 20, 0.1 + j * 8.9 / 200
            logits = zero_shot.clone()
            for key, one in zip(keys, trainer.model.method.label.long()):
                logits[:, one] += alpha * torch.exp(-beta * (1 - image @ key))
            hits = int((logits.argmax(1) == label).sum())
            if hits > most:
                most, best = hits, (alpha, beta)
    return best


@BOTH
def test_a_run_ends_with_what_validation_images_chose(name: str, make: Make, tmp_path: Path) -> None:
    """And is found again: by another run, by an evaluation, and in the same folder."""
    trainer = make(name, SMALL, *ENDED)
    before = state(trainer)
    trainer.train()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "finished" and metrics["results"]["test"]["total"] == 2 * len(CLASSNAMES)
    assert torch.equal(before["keys"], state(trainer)["keys"]) is (name == "TipAdapter")
    with torch.no_grad():
        assert trainer.model.method.strength.tolist() == pytest.approx(by_hand(trainer))
        image = batch()[0]
        expected = trainer.model.eval()(image)
        other = make(name, SMALL)  # of more images
        other.load_model(trainer.output_dir)
        assert torch.equal(other.model.eval()(image), expected)
    again = make(name, SMALL, *ENDED)
    again.train()
    assert equal(state(again), state(trainer))


def test_nothing_is_chosen_on_test_images(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("TipAdapter", SMALL, *ENDED)
    trainer.image_sets.lists["val"] = trainer.image_sets.lists["test"]
    monkeypatch.setattr(trainer, "begin", lambda: None)
    with pytest.raises(ValueError, match=r"Swatches has its test images as validation images.*DATASET\.HELD_OUT"):
        trainer.train()


def test_without_a_search_the_strength_is_that_of_the_options(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swatches, "val", property(lambda _: []))
    trainer = make("TipAdapter", {"ALPHA": 2.5, "BETA": 0.5, "SEARCH": False}, *ENDED)
    trainer.train()
    assert trainer.model.method.strength.tolist() == [2.5, 0.5]


@BOTH
def test_the_cache_follows_class_names(name: str, make: Make, tmp_path: Path) -> None:
    """In another order, with others between: a class has its own keys, and one that was not trained on none."""
    trainer, image = randomise(make(name, SMALL)), batch()[0]
    trainer.save_model(0, str(tmp_path))
    with torch.no_grad():
        before = trainer.model(image)
        trainer.model.set_classnames(["sky", *CLASSNAMES[::-1]])
        after = trainer.model(image)
        assert difference(after[:, 1:], before.flip(1)) < 1e-5
        own = trainer.model.cosine_logits(*trainer.model.features(image))
        assert torch.equal(after[:, 0], own[:, 0]) and not torch.equal(after[:, 1], own[:, 1])
        trainer.model.set_classnames(["sky", *CLASSNAMES[2:]])  # the keys of the others count for nothing
        fewer = trainer.model(image)
        assert difference(fewer[:, 0], own[:, 0]) < 1e-6
        assert difference(fewer[:, 1:], before[:, 2:]) < 1e-5


@BOTH
def test_a_cache_of_other_classes_is_no_start(name: str, make: Make, tmp_path: Path) -> None:
    """One of the same classes is."""
    base = randomise(make(name, SMALL, "DATASET.SUBSAMPLE_CLASSES", "base"))
    base.save_model(0, str(tmp_path))
    start = ("TRAINER.INIT_PROMPTS", str(tmp_path))
    new = make(name, SMALL, "DATASET.SUBSAMPLE_CLASSES", "new")
    assert torch.equal(
        make(name, SMALL, "DATASET.SUBSAMPLE_CLASSES", "new", *start).model.method.keys, new.model.method.keys
    )
    started = make(name, SMALL, "DATASET.SUBSAMPLE_CLASSES", "base", *start)
    assert equal(state(started), state(base))
