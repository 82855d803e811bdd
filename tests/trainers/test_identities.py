"""Methods at settings where their papers say that they are another one."""

from __future__ import annotations

import pytest

from .world import Make, Settings, batch, state, step

IDENTITIES: dict[str, tuple[str, Settings, str, Settings]] = {
    "KgCoOp without its knowledge is CoOp": ("KgCoOp", {"W": 0.0}, "CoOp", {}),
}


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
