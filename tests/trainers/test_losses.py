"""Terms of losses that several methods share."""

from __future__ import annotations

import pytest
import torch

from trainers.losses import cosine_distance


def test_the_cosine_distance_is_half_the_squared_one() -> None:
    """Of class features to frozen ones; both numbers from the equations by hand."""
    rows = [[1, 0, 1], [0, 1, 1], [1, 1, 0]], [[1, 0, 0.5], [0, 1, 0.5], [1, 0.5, 0]]
    text, frozen = (torch.nn.functional.normalize(torch.tensor(one, dtype=torch.float64), dim=1) for one in rows)
    assert float(cosine_distance(text, frozen)) == pytest.approx(0.05131670194948634, rel=1e-12)
    assert float((text - frozen).square().sum(1).mean()) == pytest.approx(0.1026334038989724, rel=1e-12)
