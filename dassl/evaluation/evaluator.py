"""Accuracy, macro F1 and per-class results of a classifier."""

import os
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from dassl.evaluation.build import EVALUATOR_REGISTRY
from dassl.ranks import Ranks, current
from dassl.utils import log, save_torch

__all__ = ["Classification", "EvaluatorBase"]


class EvaluatorBase:
    """``reset``, then ``process`` every batch, then ``evaluate``, whose first entry is the number that counts.

    summary: after ``evaluate`` what is kept of it in ``metrics.json``; empty: what ``evaluate`` returned.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.summary: dict[str, Any] = {}

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: Tensor, gt: Tensor) -> None:
        raise NotImplementedError

    def gather(self, ranks: Ranks) -> None:
        """Take in what the other processes of the run have processed, each image once."""
        if ranks.size > 1:
            raise NotImplementedError(f"{type(self).__name__} does not gather the results of several processes")

    def evaluate(self) -> "OrderedDict[str, float]":
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """The best score is the prediction. Percentages throughout."""

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the class names: lab2cname")
        self._lab2cname = lab2cname
        self.reset()

    def reset(self) -> None:
        self._correct: int = 0
        self._total = 0
        self._y_true: list[Tensor] = []
        self._y_pred: list[Tensor] = []

    def process(self, mo: Tensor, gt: Tensor) -> None:
        """Take in scores (B, C) and labels (B,), on any device; nothing is read from it before ``evaluate``."""
        self._y_pred.append(mo.detach().argmax(dim=1))
        self._y_true.append(gt.detach())
        self._total += gt.shape[0]

    def gather(self, ranks: Ranks) -> None:
        if ranks.size == 1:
            return
        mine = [torch.cat(parts).cpu() if parts else None for parts in (self._y_true, self._y_pred)]
        found = [pair for pair in ranks.gather(mine) if pair[0] is not None]
        self._y_true, self._y_pred = [true for true, _ in found], [predicted for _, predicted in found]
        self._total = sum(len(true) for true in self._y_true)

    def evaluate(self) -> "OrderedDict[str, float]":
        """``accuracy``, ``error_rate``, ``macro_f1`` (over the labels in the ground truth), and ``perclass_accuracy``
        with ``TEST.PER_CLASS_RESULT``; printed too."""
        if not self._total:
            raise ValueError("there is nothing to evaluate: no image was processed")
        true, predicted = torch.cat(self._y_true).cpu(), torch.cat(self._y_pred).cpu()
        size = int(torch.maximum(true.max(), predicted.max())) + 1
        total = torch.bincount(true, minlength=size)
        correct = torch.bincount(true[true == predicted], minlength=size)
        f1 = 200.0 * correct / (total + torch.bincount(predicted, minlength=size)).clamp(min=1)
        self._correct = int(correct.sum())
        accuracy = 100.0 * self._correct / self._total
        results = OrderedDict(
            accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=float(f1.double()[total > 0].mean())
        )
        self._print(results)
        per_class = self._per_class(total.tolist(), correct.tolist())
        self.summary = {**results, "total": self._total, "correct": self._correct, "per_class": per_class}
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_per_class(per_class)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(true, predicted, size)
        return results

    def _per_class(self, total: list[int], correct: list[int]) -> list[dict[str, Any]]:
        names = self._lab2cname or {}
        return [
            {
                "label": label,
                "classname": names.get(label, str(label)),
                "total": count,
                "correct": right,
                "accuracy": 100.0 * right / count,
            }
            for label, (count, right) in enumerate(zip(total, correct))
            if count
        ]

    def _print(self, results: dict[str, float]) -> None:
        log.info("=> result")
        log.info(f"* total: {self._total:,}")
        log.info(f"* correct: {self._correct:,}")
        log.info(f"* accuracy: {results['accuracy']:.1f}%")
        log.info(f"* error: {results['error_rate']:.1f}%")
        log.info(f"* macro_f1: {results['macro_f1']:.1f}%")

    def _print_per_class(self, per_class: list[dict[str, Any]]) -> float:
        log.info("=> per-class result")
        for row in per_class:
            log.info(
                f"* class: {row['label']} ({row['classname']})\ttotal: {row['total']:,}\t"
                f"correct: {row['correct']:,}\tacc: {row['accuracy']:.1f}%"
            )
        mean = sum(row["accuracy"] for row in per_class) / len(per_class)
        log.info(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion_matrix(self, true: Tensor, predicted: Tensor, size: int) -> None:
        """Rows are true labels, normalised to 1; only labels that occur as truth or prediction have a row."""
        counts = torch.bincount(true * size + predicted, minlength=size * size).view(size, size).double()
        seen = counts.sum(0) + counts.sum(1) > 0
        counts = counts[seen][:, seen]
        path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        matrix = counts / counts.sum(1, keepdim=True).clamp(min=1)
        current().on_first(lambda: save_torch(matrix, path))
        log.info(f"Confusion matrix is saved to {path}")
