import json

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score

from dassl.evaluation import Classification, build_evaluator
from dassl.metrics import compute_accuracy, compute_distance_matrix
from tests.dassl.toy import toy_cfg


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(5, (90,), generator=generator)
    labels[labels == 3] = 4  # label 3 never occurs, but is predicted
    return torch.randn(90, 5, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 5), labels


def evaluated(tmp_path, scores, *opts, names=None):
    evaluator = build_evaluator(toy_cfg(tmp_path, *opts), lab2cname=names or dict(enumerate("abcde")))
    for outputs, labels in zip(scores[0].split(32), scores[1].split(32)):
        evaluator.process(outputs, labels)
    return evaluator, evaluator.evaluate()


def test_results_equal_scikit_learns(tmp_path, scores):
    evaluator, results = evaluated(tmp_path, scores, "TEST.COMPUTE_CMAT", True)
    predicted, labels = scores[0].argmax(1).numpy(), scores[1].numpy()
    accuracy = 100 * float((predicted == labels).mean())
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == pytest.approx(accuracy) and results["error_rate"] == pytest.approx(100 - accuracy)
    macro_f1 = 100 * f1_score(labels, predicted, average="macro", labels=np.unique(labels))
    assert results["macro_f1"] == pytest.approx(macro_f1, rel=1e-6)
    matrix = torch.load(tmp_path / "cmat.pt", weights_only=True).numpy()
    assert np.allclose(matrix, confusion_matrix(labels, predicted, normalize="true"))
    summary = json.loads(json.dumps(evaluator.summary))
    assert summary["total"] == 90 and summary["correct"] == int((predicted == labels).sum())
    assert [row["label"] for row in summary["per_class"]] == [0, 1, 2, 4]


def test_printed_lines(tmp_path, capsys):
    outputs = torch.eye(2)[[0, 0, 1, 0]]
    _, results = evaluated(tmp_path, (outputs, torch.tensor([0, 0, 1, 1])), "TEST.PER_CLASS_RESULT", True)
    assert results["perclass_accuracy"] == 75.0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "=> result",
        "* total: 4",
        "* correct: 3",
        "* accuracy: 75.0%",
        "* error: 25.0%",
        "* macro_f1: 73.3%",
        "=> per-class result",
        "* class: 0 (a)\ttotal: 2\tcorrect: 2\tacc: 100.0%",
        "* class: 1 (b)\ttotal: 2\tcorrect: 1\tacc: 50.0%",
        "* average: 75.0%",
    ]


def test_reset_forgets(tmp_path, scores):
    evaluator, first = evaluated(tmp_path, scores)
    evaluator.reset()
    evaluator.process(*scores)
    assert evaluator.evaluate() == first
    evaluator.reset()
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluator.evaluate()


def test_class_names_are_needed_for_per_class_results(tmp_path):
    with pytest.raises(ValueError, match="lab2cname"):
        Classification(toy_cfg(tmp_path, "TEST.PER_CLASS_RESULT", True))
    with pytest.raises(ValueError, match="Classification"):
        build_evaluator(toy_cfg(tmp_path, "TEST.EVALUATOR", "Regression"))


def test_top_k_accuracy(scores):
    outputs, labels = scores
    ranks = (outputs.argsort(dim=1, descending=True) == labels[:, None]).int().argmax(dim=1)
    for k, value in zip((1, 3, 9), compute_accuracy((outputs, None), labels, topk=(1, 3, 9))):
        assert value.shape == (1,) and value.item() == pytest.approx(100 * (ranks < k).float().mean().item())


def test_distances():
    first, second = torch.randn(4, 3, dtype=torch.double), torch.randn(5, 3, dtype=torch.double)
    assert torch.allclose(compute_distance_matrix(first, second), torch.cdist(first, second) ** 2)
    cosine = torch.stack([1 - torch.cosine_similarity(row[None], second) for row in first])
    assert torch.allclose(compute_distance_matrix(first, second, "cosine"), cosine)
    with pytest.raises(ValueError, match="manhattan"):
        compute_distance_matrix(first, second, "manhattan")
