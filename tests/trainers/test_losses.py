"""Candidate classes (POMP) and distillation (RPP)."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dassl.config import CfgNode
from dassl.engine import TRAINER_REGISTRY
from tests.clip.small import difference
from trainers.losses import candidates, distillation

from . import plain
from .world import CLASSNAMES, Make, batch, in_double


def sampling(number: int, correct: bool = True, log: str = "ln") -> CfgNode:
    return CfgNode({"UPDATE_CLASS_NUM": number, "LOCAL_CORRECTION": correct, "CORRECTION_LOG": log})


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n + 1), st.integers(0, 99))))
def test_candidates_are_the_own_class_and_distinct_others(case: tuple[int, int, int]) -> None:
    num_classes, number, seed = case
    torch.manual_seed(seed)
    label = torch.randint(num_classes, (5,))
    chosen = candidates(sampling(number), label, num_classes)
    drawn = chosen.classes[chosen.sampled]
    assert len(drawn) == len(drawn.unique()) == number - 1
    assert torch.equal(chosen.classes, torch.cat([label, drawn]).unique())
    assert torch.equal(chosen.classes[chosen.own], label)
    assert torch.equal(chosen.masked[:, 1:], drawn == label[:, None]) and not chosen.masked[:, 0].any()
    assert not chosen.target.any()


def test_every_class_is_drawn_equally_often() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(6)
    for _ in range(1200):
        chosen = candidates(sampling(3), torch.tensor([0]), 6)
        counts[chosen.classes[chosen.sampled]] += 1
    assert (counts / 400 - 1).abs().max() < 0.15  # 400 of each expected, standard deviation 16


@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("drawn", [1, 2, 3])
def test_natural_correction_estimates_the_full_softmax(label: int, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all draws that leave a negative, the corrected sum of exp z_j averages to that over all negatives."""
    logits = torch.randn(1, 4, dtype=torch.float64)
    full = logits[0].exp().sum() - logits[0, label].exp()
    sums = {False: [], True: []}
    for picked in combinations(range(4), drawn):
        monkeypatch.setattr(torch, "randperm", lambda n, picked=picked: torch.tensor(picked))
        chosen = candidates(sampling(drawn + 1), torch.tensor([label]), 4)
        corrected = chosen.corrected(chosen.columns(logits[:, chosen.classes]))
        if set(picked) != {label}:
            sums[label in picked].append(corrected[0, 1:].exp().sum())
    for estimates in filter(None, sums.values()):
        assert torch.isclose(torch.stack(estimates).mean(), full, rtol=1e-12)


def test_published_correction_is_the_natural_one_over_ln_10() -> None:
    label = torch.tensor([0, 4])
    torch.manual_seed(1)
    published = candidates(sampling(4, log="log10"), label, 6).correction
    torch.manual_seed(1)
    natural = candidates(sampling(4), label, 6).correction
    assert torch.allclose(published * math.log(10), natural, rtol=1e-14, atol=0)
    assert not published[:, 0].any() and (published[:, 1:] > 0).all()


@pytest.mark.parametrize("correct", [False, True])
def test_pomp_with_every_class_is_coop(correct: bool, make: Make) -> None:
    """K = N + 1 draws all; the correction is zero then."""
    number = len(CLASSNAMES) + 1
    pomp = make("POMP", {"UPDATE_CLASS_NUM": number, "N_CTX": 3, "LOCAL_CORRECTION": correct})
    coop = make("CoOp", {"N_CTX": 3})
    pomp.model.learner.load_state_dict(coop.model.learner.state_dict())
    found, expected = (trainer.compute_loss(*batch())["ce_loss"] for trainer in (pomp, coop))
    assert torch.isclose(found, expected, rtol=1e-6)
    all_of_them = candidates(sampling(number), torch.tensor([0, 3]), len(CLASSNAMES))
    assert torch.allclose(all_of_them.correction, torch.zeros(2, number, dtype=torch.float64), atol=1e-15)


def test_pomp_without_sampling_is_coop(make: Make) -> None:
    pomp, coop = make("POMP", {"EPT": False, "N_CTX": 3}), make("CoOp", {"N_CTX": 3})
    pomp.model.learner.load_state_dict(coop.model.learner.state_dict())
    found, expected = (trainer.compute_loss(*batch())["ce_loss"] for trainer in (pomp, coop))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("method", ["POMP", "RPP"])
@pytest.mark.parametrize("number", [1, len(CLASSNAMES) + 2])
def test_impossible_numbers_of_candidates(method: str, number: int, make: Make) -> None:
    with pytest.raises(ValueError, match=f"UPDATE_CLASS_NUM must be 0 or from 2 to 7 .* but is {number}"):
        make(method, {"UPDATE_CLASS_NUM": number}).compute_loss(*batch())


OWN_SECTION = [
    ("POMP", "CORRECTION_LOG", "log2", "must be one of log10, ln, but is 'log2'"),
    ("POMP", "NEG_SAMPLING_MODE", "hard", "must be one of random, but is 'hard'"),
    ("RPP", "QKV", "qk", "must be one of qkv, kv, shared, but is 'qk'"),
    ("RPP", "TEMPERATURE", -1.0, "must be a finite number, larger than 0, but is -1.0"),
    ("RPP", "TEMPERATURE", math.nan, "must be a finite number, larger than 0, but is nan"),
    ("RPP", "TEMPERATURE", math.inf, "must be a finite number, larger than 0, but is inf"),
    ("RPP", "TEMPERATURE", 0.0, "must be a finite number, larger than 0, but is 0.0"),
    ("RPP", "LAMBDA", -1.0, "must be a finite number, 0 or more, but is -1.0"),
    ("RPP", "LAMBDA", math.nan, "must be a finite number, 0 or more, but is nan"),
    ("RPP", "LAMBDA", math.inf, "must be a finite number, 0 or more, but is inf"),
]


@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize(("method", "key", "value", "message"), OWN_SECTION)
def test_options_are_checked_in_the_section_of_the_class(
    method: str, key: str, value: object, message: str, derived: bool, make: Make
) -> None:
    """A subclass with a section of its own does not lose the checks."""
    base = TRAINER_REGISTRY.get(method)
    if not derived:
        with pytest.raises(ValueError, match=f"{key} {message}"):
            make(method, {key: value})
        return
    cfg = CfgNode(make(method).cfg)
    cfg.defrost()
    cfg.TRAINER.OWN = CfgNode({**base.defaults, key: value})
    child = type("Child", (base,), {"section": "OWN"})
    with pytest.raises(ValueError, match=f"{key} {message}"):
        child(cfg)


def test_only_the_candidates_are_encoded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, counts = make("POMP", {"UPDATE_CLASS_NUM": 3}), []
    encode = type(trainer.model.clip).encode_text
    monkeypatch.setattr(
        type(trainer.model.clip), "encode_text", lambda *args: counts.append(len(args[1])) or encode(*args)
    )
    trainer.compute_loss(batch()[0], torch.tensor([1, 1, 1, 1, 1]))
    assert counts in ([2], [3])  # the label's class, and the drawn ones besides it


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


@pytest.mark.parametrize("log", ["log10", "ln"])
def test_sampled_losses_agree_with_the_plain_ones_in_double(log: str, make: Make) -> None:
    """Classes 0 .. N - 2 are drawn; the temperature is so high that a mask divided by it would count."""
    image, label = batch(dtype=torch.float64)
    drawn = torch.arange(len(CLASSNAMES) - 1)
    settings = {"UPDATE_CLASS_NUM": len(CLASSNAMES), "CORRECTION_LOG": log}
    for method in ("POMP", "RPP"):
        trainer = in_double(make(method, settings | ({"TEMPERATURE": 1e5} if method == "RPP" else {})))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randperm", lambda n: torch.arange(n))
            terms = trainer.compute_loss(image, label)
        logits = trainer.model(image)
        assert difference(terms["ce_loss"], plain.pomp_loss(logits, label, drawn, log)) < 1e-13
        if method == "RPP":
            teacher = trainer.teacher.logits(image)
            kept = [torch.tensor([y, *(j for j in drawn if j != y)]) for y in label]
            pairs = [(teacher[i, kept[i]], logits[i, kept[i]]) for i in range(len(label))]
            expected = torch.stack([plain.kl_divergence(t[None], s[None], 1e5) for t, s in pairs]).mean()
            assert difference(terms["kd_loss"], expected) < 1e-4  # T = 1e5 leaves few digits of a divergence


@pytest.mark.parametrize("method", ["POMP", "RPP"])
def test_the_mask_of_sampled_classes_survives_half_precision(method: str, make: Make) -> None:
    """fp16, which a GPU's autocast uses, ends at 65504; the mask is -1e6."""
    trainer = make(method, {"UPDATE_CLASS_NUM": len(CLASSNAMES) + 1})  # every own class is drawn again
    with torch.autocast("cpu", dtype=torch.float16):
        terms = trainer.compute_loss(*batch())
    plainly = trainer.compute_loss(*batch())
    assert terms["ce_loss"].dtype == torch.float32
    assert abs(terms["ce_loss"] - plainly["ce_loss"]) < 0.01 * plainly["ce_loss"]
