"""The benchmarks run, on a small model, and what they compare computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch
from torch import Tensor

from benchmarks import common, eval, ledger, loader, memory, scale, scaling, step
from clip.model import CLIP
from configs import methods
from trainers import PromptedCLIP
from trainers.method import Batch, Needs
from trainers.sampling import draw_candidates
from trainers.vpt import VPT

SAMPLED = {"EPT": True, "UPDATE_CLASS_NUM": 6, "LOCAL_CORRECTION": True}


@pytest.fixture(autouse=True)
def small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = CLIP(64, 32, 12, 128, 8, 77, 49408, 64, 1, 12).eval().requires_grad_(False)
    monkeypatch.setattr(common, "vit_b16", lambda precision="fp32": small)
    picture = lambda batch: torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2))  # noqa: E731
    for module in (step, eval, scaling):
        monkeypatch.setattr(module, "images", picture)


SMALL = [case for case in step.cases([*methods()]) if case.classes <= 100]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_naive_and_ours_are_the_same_function(case: step.Case) -> None:
    """Of every method of the table: its logits, its loss, and what it learns in a step. Nothing it has is 0."""
    case = replace(case, classes=7, batch=2)
    image, found = step.images(2), []
    for kind in (common.NaiveCLIP, PromptedCLIP):
        model = common.classifier(case.method, 7, changes=case.changes, kind=kind)
        model.method.eval()  # dropout is drawn for other rows
        with torch.no_grad():
            for parameter in model.method.parameters():
                parameter.add_(0.01)
        found.append([model(image).detach()])
        if case.train:
            found[-1] += learned(model, step.draw_batch(case, model, draw_candidates)())
    for naive, ours in zip(*found):
        assert naive.any()
        assert (naive - ours).abs().max() <= 1e-4 * naive.abs().max()


def learned(model: PromptedCLIP, batch: Batch) -> list[Tensor]:
    """Loss and gradients of a batch."""
    terms = step.loss_of(model, batch)
    model.method.backward(terms)
    gradients = [p.grad.flatten() for p in model.method.parameters() if p.grad is not None]
    return [sum(terms.values()).detach(), torch.cat(gradients)]


def test_repetitions_change_no_loss() -> None:
    """Naively an image's class is encoded once more; of which classes the loss is made stays the same."""
    case, losses = step.Case("POMP", 9, 5, changes=SAMPLED), []
    for kind, draw in ((common.NaiveCLIP, step.draw_with_repetitions), (PromptedCLIP, draw_candidates)):
        model = common.classifier(case.method, case.classes, changes=case.changes, kind=kind)
        make = step.draw_batch(case, model, draw)
        torch.manual_seed(5)
        losses.append([learned(model, make()) for _ in range(3)])
        assert (len(make().classes.index) == 5 + 5) is (kind is common.NaiveCLIP)
    for naive, ours in zip(*losses):
        assert naive[0] == pytest.approx(ours[0].item(), rel=1e-4)


def test_step_measures_less_work(capsys: pytest.CaptureFixture[str]) -> None:
    name, naive, ours, ratio, target, floor, *_ = step.measure(step.Case("MaPLe", 9, 2), "fp32", 1)
    assert (name, target) == ("MaPLe, 9 classes, batch 2, train", None)
    assert naive > 0
    assert ratio == naive / ours
    assert floor > 3  # fewer operations, whatever the clock says


def test_sampled_step_encodes_the_candidates_only() -> None:
    naive, ours = step.functions(step.Case("POMP", 50, 2, changes=SAMPLED), "fp32")
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
        made[0].method.zero_grad()
        flops.append(common.count_flops(step_of_stage))
        gradients.append(torch.cat([p.grad.flatten() for p in made[0].method.parameters() if p.grad is not None]))
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
        gradients.append(torch.cat([p.grad.flatten() for p in model.method.parameters() if p.grad is not None]))
    assert gradients[0].any()
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).abs().max() <= 1e-4 * gradients[0].abs().max()


def test_scaling_counts_the_naive_text_side() -> None:
    per_hundred = scaling.naive_text_tflop("MaPLe")
    row = scaling.measure("MaPLe", 12, 2, "fp32", 1, per_hundred)
    assert row[4] == pytest.approx(per_hundred * 12 / 100)
    assert row[3] < row[4] + 1  # TFLOP of ours


def test_sizes_are_those_of_the_papers() -> None:
    """CoOp 16 random tokens, MaPLe 2 in 9 layers, VPT 8 in 12; RPP's step is compared with MaPLe's, at its size."""
    coop, maple, vpt = (common.options_of(method) for method in ("CoOp", "MaPLe", "VPT"))
    assert (coop.N_CTX, coop.CTX_INIT) == (16, "")
    assert (maple.N_CTX, maple.PROMPT_DEPTH, vpt.N_CTX_VISION, vpt.PROMPT_DEPTH_VISION) == (2, 9, 8, 12)
    rpp = common.options_of("RPP", step.RPP.changes)
    assert (rpp.N_CTX_TEXT, rpp.N_CTX_VISION, rpp.PROMPT_DEPTH_TEXT, rpp.PROMPT_DEPTH_VISION) == (2, 2, 9, 9)
    assert (rpp.RESIDUAL, rpp.LAMBDA) == ("carry", 0)


def test_any_method_can_be_timed() -> None:
    """One without a case has a step of its own settings; zero-shot CLIP has inference alone."""
    assert step.cases([]) == [*step.CASES]
    assert step.cases(["ProGrad", "VPT"]) == [step.Case("VPT"), step.Case("ProGrad")]
    assert [case.train for case in step.cases(["ZeroshotCLIP", "PromptSRC"])] == [False, True]
    with pytest.raises(SystemExit):
        step.main(["--only", "MaPle"])


def test_a_method_is_served_as_by_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several views of an image, and a beginning with features of training images."""
    begun = []
    monkeypatch.setattr(VPT, "needs", classmethod(lambda cls, options: Needs(images=True, views=3)))
    monkeypatch.setattr(VPT, "begin", lambda self, classifier, data: begun.append(data.features("train", 2)))
    model = common.classifier("VPT", 3)
    batch = step.draw_batch(step.Case("VPT", 3, 2), model, draw_candidates)()
    assert [view.shape for view in batch.views] == [batch.image.shape] * 2
    assert not torch.equal(batch.image, batch.views[0]) and not torch.equal(*batch.views)
    assert begun[0][0].shape == (2, 48, 64) and begun[0][1].bincount().tolist() == [16, 16, 16]
    assert model.is_trained_on_these


def test_the_step_benchmark_prints_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(step, "CASES", (step.Case("VPT", 5, 2),))
    step.main(["--only", "VPT", "--repeats", "1", "--threads", "1"])
    assert "| VPT, 5 classes, batch 2, train" in capsys.readouterr().out


def test_data_at_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and shards hold the same images; the made-up index names as many as it says, and is small."""
    monkeypatch.setattr(loader, "COUNT", 16)
    monkeypatch.setattr(loader, "SIZE", (40, 30))
    data = scale.make_data(tmp_path)
    folders, shards = ([(item.label, item.load().tobytes()) for item in items] for items in data.values())
    assert folders == shards and len(folders) == 16
    assert all(value > 0 for value in scale.measure_loader(data["shards"], 0, 1))
    path = scale.write_index(tmp_path / "made.safetensors", "made up", scale.made_up(7, 1000)).path
    found = SimpleQueue()
    scale.open_and_use(path, found)
    assert found.get()[-1] == 1000 - 7 * 5
    index = scale.ImageIndex(path)
    assert [index.name(row) for row in (0, 142, 999)] == [f"n0000000{label}_{row:07d}.JPEG" for label, row in
                                                         ((0, 0), (0, 142), (6, 999))]  # fmt: skip
