"""Trainers on one small random CLIP."""

import copy
from functools import cache
from pathlib import Path

import pytest

import clip.clip

from .world import Make, maker, save_clip


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights file of a CLIP with 3 layers, text width 128 and vision width 192."""
    return save_clip(tmp_path_factory.mktemp("weights"))


read_once = cache(clip.clip.load_model)


@pytest.fixture
def make(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``make(method, settings of its section, *opts)``: a trainer whose output folder is ``tmp_path / "run"``.

    Weights files are read once and copied, since half a second a trainer adds up.
    """
    monkeypatch.setattr(clip.clip, "load_model", lambda name, path: copy.deepcopy(read_once(name, path)))
    return maker(backbone, tmp_path / "run")


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {"vision_layers": (1, 1, 1, 1), "vision_width": 16, "vision_patch_size": None}
    return save_clip(tmp_path_factory.mktemp("weights"), "resnet", **sizes)
