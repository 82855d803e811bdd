"""Methods at settings where their papers say that they are another one."""

from __future__ import annotations

import pytest
import torch

from tests.clip.small import difference

from .world import Make, Settings, batch, equal, state, step

IDENTITIES: dict[str, tuple[str, Settings, str, Settings]] = {
    "KgCoOp without its knowledge is CoOp": ("KgCoOp", {"W": 0.0}, "CoOp", {}),
    "ZS-LP is TaskRes that counts whole": ("TaskRes", {"ALPHA": 1.0}, "ZSLP", {}),
}


ZERO_SHOT: dict[str, tuple[str, Settings]] = {
    "Tip-Adapter without its cache": ("TipAdapter", {"ALPHA": 0.0}),
    "Tip-Adapter-F without its cache": ("TipAdapterF", {"ALPHA": 0.0}),
    "CLIP-Adapter that mixes nothing in": ("CLIPAdapter", {"RATIO": 0.0}),
    "MMRL without its second path": ("MMRL", {"N_REP_TOKENS": 0, "ALPHA": 1.0}),
}


@pytest.mark.parametrize(("method", "settings"), ZERO_SHOT.values(), ids=ZERO_SHOT)
def test_zero_shot_clip(method: str, settings: Settings, make: Make) -> None:
    image = batch()[0]
    with torch.no_grad():
        expected = make("ZeroshotCLIP").model(image)
        assert difference(make(method, settings).model(image), expected) < 1e-6
        assert difference(make(method).model(image), expected) > 1e-3


@pytest.mark.parametrize(("method", "settings", "other", "others"), IDENTITIES.values(), ids=IDENTITIES)
def test_three_steps_are_those_of_the_other(
    method: str, settings: Settings, other: str, others: Settings, make: Make
) -> None:
    """Losses and what is learned, bit for bit, from the same start."""
    pair = make(method, settings), make(other, others)
    pair[0].model.method.load_state_dict(pair[1].model.method.state_dict())
    for _ in range(3):
        found, expected = (step(trainer, *batch()) for trainer in pair)
        assert found == expected
    learned, expected = (state(trainer) for trainer in pair)
    assert all((learned[key] == value).all() for key, value in expected.items())


def test_clap_without_trust_is_zslp(make: Make) -> None:
    pair = make("CLAP"), make("ZSLP")
    pair[0].model.method.trust.zero_()
    losses = [[step(trainer, *batch()) for _ in range(3)] for trainer in pair]
    assert losses[0] == losses[1] and equal(*(state(trainer) for trainer in pair))
    assert step(make("CLAP"), *batch()) == losses[0][0], "it starts without a distance"
