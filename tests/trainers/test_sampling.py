"""Candidate classes (POMP), and losses over them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.clip.small import difference
from trainers.sampling import Sampling, draw_candidates

from . import plain
from .world import CLASSNAMES, SAMPLING, Make, batch, in_double, terms


@given(st.integers(2, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n + 1), st.integers(0, 99))))
def test_candidates_are_the_own_class_and_distinct_others(case: tuple[int, int, int]) -> None:
    num_classes, number, seed = case
    torch.manual_seed(seed)
    label = torch.randint(num_classes, (5,))
    chosen = draw_candidates(Sampling(number, "ln"), label, num_classes)
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
        chosen = draw_candidates(Sampling(3, "ln"), torch.tensor([0]), 6)
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
        chosen = draw_candidates(Sampling(drawn + 1, "ln"), torch.tensor([label]), 4)
        corrected = chosen.corrected(chosen.columns(logits[:, chosen.classes]))
        if set(picked) != {label}:
            sums[label in picked].append(corrected[0, 1:].exp().sum())
    for estimates in filter(None, sums.values()):
        assert torch.isclose(torch.stack(estimates).mean(), full, rtol=1e-12)


def test_published_correction_is_the_natural_one_over_ln_10() -> None:
    label = torch.tensor([0, 4])
    torch.manual_seed(1)
    published = draw_candidates(Sampling(4), label, 6).correction
    torch.manual_seed(1)
    natural = draw_candidates(Sampling(4, "ln"), label, 6).correction
    assert torch.allclose(published * math.log(10), natural, rtol=1e-14, atol=0)
    assert not published[:, 0].any() and (published[:, 1:] > 0).all()


RANDOM = {"N_CTX": 3, "CTX_INIT": ""}


@pytest.mark.parametrize("correct", [False, True])
def test_pomp_with_every_class_is_coop(correct: bool, make: Make) -> None:
    """K = N + 1 draws all; the correction is zero then."""
    number = len(CLASSNAMES) + 1
    pomp = make("POMP", {"UPDATE_CLASS_NUM": number, **RANDOM, "LOCAL_CORRECTION": correct})
    coop = make("CoOp", RANDOM)
    pomp.model.method.load_state_dict(coop.model.method.state_dict())
    found, expected = (terms(trainer, *batch())["ce_loss"] for trainer in (pomp, coop))
    assert torch.isclose(found, expected, rtol=1e-6)
    all_of_them = draw_candidates(Sampling(number, "ln"), torch.tensor([0, 3]), len(CLASSNAMES))
    assert torch.allclose(all_of_them.correction, torch.zeros(2, number, dtype=torch.float64), atol=1e-15)


def test_pomp_without_sampling_is_coop(make: Make) -> None:
    pomp, coop = make("POMP", {"EPT": False, **RANDOM}), make("CoOp", RANDOM)
    pomp.model.method.load_state_dict(coop.model.method.state_dict())
    found, expected = (terms(trainer, *batch())["ce_loss"] for trainer in (pomp, coop))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("method", SAMPLING)
@pytest.mark.parametrize("number", [1, len(CLASSNAMES) + 2])
def test_impossible_numbers_of_candidates(method: str, number: int, make: Make) -> None:
    with pytest.raises(ValueError, match=f"UPDATE_CLASS_NUM must be 0 or from 2 to 7 .* but is {number}"):
        terms(make(method, {"UPDATE_CLASS_NUM": number}), *batch())


def test_only_the_candidates_are_encoded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, counts = make("POMP", {"UPDATE_CLASS_NUM": 3}), []
    encode = type(trainer.model.clip).encode_text
    monkeypatch.setattr(
        type(trainer.model.clip), "encode_text", lambda *args: counts.append(len(args[1])) or encode(*args)
    )
    terms(trainer, batch()[0], torch.tensor([1, 1, 1, 1, 1]))
    assert counts in ([2], [3])  # the label's class, and the drawn ones besides it


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
            found = terms(trainer, image, label)
        logits = trainer.model(image)
        assert difference(found["ce_loss"], plain.sampled_cross_entropy(logits, label, drawn, log)) < 1e-13
        if method == "RPP":
            teacher = trainer.model.method.teacher.logits(image)
            kept = [torch.tensor([y, *(j for j in drawn if j != y)]) for y in label]
            pairs = [(teacher[i, kept[i]], logits[i, kept[i]]) for i in range(len(label))]
            expected = torch.stack([plain.kl_divergence(t[None], s[None], 1e5) for t, s in pairs]).mean()
            assert difference(found["kd_loss"], expected) < 1e-4  # T = 1e5 leaves few digits of a divergence


@pytest.mark.parametrize("method", SAMPLING)
def test_the_mask_of_sampled_classes_survives_half_precision(method: str, make: Make) -> None:
    """fp16, which a GPU's autocast uses, ends at 65504; the mask is -1e6."""
    trainer = make(method, {"UPDATE_CLASS_NUM": len(CLASSNAMES) + 1})  # every own class is drawn again
    with torch.autocast("cpu", dtype=torch.float16):
        found = terms(trainer, *batch())
    plainly = terms(trainer, *batch())
    assert found["ce_loss"].dtype == torch.float32
    assert abs(found["ce_loss"] - plainly["ce_loss"]) < 0.01 * plainly["ce_loss"]
