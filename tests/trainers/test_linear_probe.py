"""The linear probe: its optimum and its search beside scikit-learn's, and the classes that it knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.clip.small import difference
from trainers.linear_probe import fit, search

from .world import CLASSNAMES, Make, batch, equal, randomise, state

ENDED = ("OPTIM.MAX_EPOCH", 1)


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes that overlap."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 3
    centres = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 0]], dtype=torch.float64)
    return centres[label] + torch.randn(count, 4, generator=generator, dtype=torch.float64), label


def other(features: Tensor, label: Tensor, penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=1000, tol=1e-9).fit(features.numpy(), label.numpy())


@pytest.mark.parametrize("penalty", [1e-4, 1.0, 1e6])
def test_the_optimum_is_that_of_scikit_learn(penalty: float) -> None:
    features, label = points(60, 0)
    weight, bias = fit(features, label, 3, penalty)
    expected = torch.from_numpy(other(features, label, penalty).predict_proba(features.numpy()))
    assert difference((features @ weight.t() + bias).softmax(1), expected) < 1e-4


def test_the_search_is_the_published_one() -> None:
    """Powers of ten, the larger of two equal ones; then halves at the better end, the left one of two equal ones."""
    train, val = points(30, 1), points(90, 2)  # few enough for ends that are equal

    def hits(exponent: float) -> float:
        return other(*train, 10**exponent).score(val[0].numpy(), val[1].numpy())

    scores = {exponent: hits(exponent) for exponent in (6, 4, 2, 0, -2, -4, -6)}
    best = max(scores.values())
    peak = next(exponent for exponent, score in scores.items() if score == best)
    left, right = peak - 1, peak + 1
    for _ in range(3):
        middle = (left + right) / 2
        if hits(left) < hits(right):
            left, chosen = middle, right
        else:
            right, chosen = middle, left
    weight, bias = search(*train, 3, val, 3)
    expected = torch.from_numpy(other(*train, 10**chosen).predict_proba(val[0].numpy()))
    assert len(set(scores.values())) > 2
    assert difference((val[0] @ weight.t() + bias).softmax(1), expected) < 1e-4


def test_a_run_ends_with_a_fit_that_is_found_again(make: Make, tmp_path: Path) -> None:
    trainer = make("LinearProbe", {"HALVINGS": 1}, *ENDED)
    trainer.train()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["status"] == "finished" and metrics["results"]["test"]["accuracy"] > 50
    features, label = trainer.image_sets.features("train")
    method = trainer.model.method
    assert torch.equal((features[0] @ method.weight.t() + method.bias).argmax(1), label)
    again = make("LinearProbe", {"HALVINGS": 1}, *ENDED)
    again.load_model(trainer.output_dir)
    assert equal(state(again), state(trainer))
    again.model.eval()
    with torch.no_grad():
        assert torch.equal(again.model(batch()[0]), trainer.model.eval()(batch()[0]))


def test_without_a_search_the_penalty_is_that_of_the_options(make: Make) -> None:
    trainer = make("LinearProbe", {"SEARCH": False, "PENALTY": 0.01}, *ENDED)
    trainer.train()
    features, label = trainer.image_sets.features("train")
    expected = fit(features[0].double(), label, len(CLASSNAMES), 0.01)[0].float()
    assert difference(trainer.model.method.weight, expected) < 1e-6


def test_it_knows_the_classes_of_its_training(make: Make, tmp_path: Path) -> None:
    """Some of them, in any order; others are an error, as is a text feature."""
    trainer, image = randomise(make("LinearProbe")), batch()[0]
    trainer.save_model(0, str(tmp_path))
    loaded = make("LinearProbe", None, "DATASET.SUBSAMPLE_CLASSES", "new")
    loaded.load_model(str(tmp_path))
    with torch.no_grad():
        expected = trainer.model(image)
        assert difference(loaded.model(image), expected[:, 3:]) < 1e-6
        trainer.model.set_classnames(CLASSNAMES[::-1])
        assert difference(trainer.model(image), expected.flip(1)) < 1e-6
        assert difference(trainer.model(image, torch.tensor([2, 0])), expected[:, [3, 5]]) < 1e-6
        trainer.model.set_classnames(["sky", CLASSNAMES[0]])
        with pytest.raises(ValueError, match=r"classes of its training alone, not sky$"):
            trainer.model(image)
    with pytest.raises(ValueError, match="no class features"):
        _ = trainer.model.text_features
