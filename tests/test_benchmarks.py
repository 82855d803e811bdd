"""The benchmarks run, on a small model, and what they compare computes the same."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import common, eval, ledger, memory, scaling, step
from clip.model import CLIP


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = CLIP(64, 32, 12, 128, 8, 77, 49408, 64, 1, 12).eval().requires_grad_(False)
    monkeypatch.setattr(common, "vit_b16", lambda precision="fp32": small)
    picture = lambda batch: torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2))  # noqa: E731
    for module in (step, eval, scaling):
        monkeypatch.setattr(module, "images", picture)


@pytest.mark.parametrize("case", [c for c in step.CASES if c.classes <= 100], ids=lambda case: case.name)
def test_naive_and_ours_are_the_same_function(case: step.Case) -> None:
    model, image = common.classifier(case.method, 7), step.images(2)
    naive, ours = common.naive_logits(model, image), model(image)
    assert (naive - ours).abs().max() <= 1e-4 * naive.abs().max()


def test_step_measures_less_work(capsys: pytest.CaptureFixture[str]) -> None:
    name, naive, ours, ratio, target, floor, *_ = step.measure(step.Case("MaPLe", 9, 2), "fp32", 1)
    assert (name, target) == ("MaPLe, 9 classes, batch 2, train", None)
    assert naive > 0
    assert ratio == naive / ours
    assert floor > 3  # fewer operations, whatever the clock says


def test_sampled_step_encodes_the_candidates_only() -> None:
    naive, ours = step.functions(step.Case("POMP", 50, 2, sampled=6), "fp32")
    naive_all, ours_all = step.functions(step.Case("POMP", 50, 2), "fp32")
    assert common.count_flops(ours) < common.count_flops(ours_all)
    assert common.count_flops(naive) < common.count_flops(naive_all)


def test_evaluation_encodes_class_names_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval, "BATCH", 2)
    row = eval.measure("MaPLe", 30, "fp32", 0)
    assert row[5] > 2  # floor


def test_every_stage_of_the_ledger_has_the_gradient_of_the_plain_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(ledger, "classifier", lambda *args: made.append(common.classifier(*args)) or made[0])
    gradients, flops = [], []
    for step_of_stage in ledger.stages("MaPLe", 40).values():
        made[0].learner.zero_grad()
        flops.append(common.count_flops(step_of_stage))
        gradients.append(torch.cat([p.grad.flatten() for p in made[0].learner.parameters() if p.grad is not None]))
    assert flops[:4] == sorted(flops[:4], reverse=True)
    assert len(set(flops[:4])) == 4
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() <= 1e-4 * gradients[0].abs().max()


def test_memory_is_that_of_one_and_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for budget, plain in ((0, True), (0, False), (0.001, False)):
        model = common.classifier("MaPLe", 20)
        monkeypatch.setattr(memory, "classifier", lambda *args, model=model: model)
        memory.measure("MaPLe", 20, budget, plain, "fp32")
        gradients.append(torch.cat([p.grad.flatten() for p in model.learner.parameters() if p.grad is not None]))
    assert gradients[0].any()
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() <= 1e-4 * gradients[0].abs().max()


def test_scaling_counts_the_naive_text_side() -> None:
    per_hundred = scaling.naive_text_tflop("MaPLe")
    row = scaling.measure("MaPLe", 12, 2, "fp32", 1, per_hundred)
    assert row[4] == pytest.approx(per_hundred * 12 / 100)
    assert row[3] < row[4] + 1  # TFLOP of ours


def test_the_step_benchmark_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "CASES", (step.Case("VPT", 5, 2),))
    monkeypatch.setattr(sys, "argv", ["step", "--only", "VPT", "--repeats", "1", "--threads", "1"])
    step.main()
    assert "| VPT, 5 classes, batch 2, train" in capsys.readouterr().out
