"""One thread, one seed and small models for every test."""

import pytest
import torch
from hypothesis import settings

from clip.model import CLIP

from .clip.small import small_clip

torch.set_num_threads(1)
settings.register_profile("project", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def model() -> CLIP:
    """A small random CLIP in fp64; read only."""
    return small_clip().double()


@pytest.fixture(scope="session")
def model32() -> CLIP:
    """The same in fp32; read only."""
    return small_clip()
