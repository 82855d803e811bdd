"""The embedded world as a measuring instrument: what its probes compute, and that its source leaves prompts room."""

from __future__ import annotations

import pytest
import torch

from clip.clip import load_frozen
from datasets.embedded import TinySource
from tools import probes, world

from .small_world import small_world  # noqa: F401 - a fixture


def test_classes_are_spelled_by_words_and_their_places() -> None:
    classes = [("red", "star"), ("red", "ring"), ("star", "ring")]
    assert probes.spelling(classes).tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]]


def test_a_composed_probe_knows_combinations_that_it_was_not_shown() -> None:
    """Features that are sums of words: of 25 classes 20 are in training, the other five are composed of their words."""
    torch.manual_seed(0)
    parts = probes.spelling([(a, b) for a in "vwxyz" for b in "fghij"])
    images = torch.nn.functional.normalize(parts @ torch.randn(10, 32), dim=-1).repeat(4, 1)
    labels = torch.arange(25).repeat(4)
    shown = labels % 6 != 0
    splits = {
        "train": (images[shown], labels[shown]),
        "val": (images, labels),
        "test": (images[~shown], labels[~shown]),
    }
    blind = 0.1 * torch.randn(25, 32)
    assert probes.probe(splits, torch.eye(25), blind, 50.0) < 50
    assert probes.probe(splits, parts, blind, 50.0) == 100


def test_the_source_leaves_room_above_zero_shot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector per word gains ten points over the generic wording."""
    monkeypatch.setattr(probes, "PENALTIES", (1e-3,))
    row = probes.measure(load_frozen("tiny", "", "fp32"), TinySource)
    assert 100 * 20 / row.classes < row.generic < 50  # far above chance
    assert row.composed - row.generic >= 10


@pytest.mark.usefixtures("small_world")
def test_the_table_has_a_row_for_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert world.main([]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "data set" and len(rows) == 14
    values = {name: line for name, *line in map(str.split, rows)}
    assert len(values["TinyPrint"]) == 6 and values["TinySourceTint"][-2:] == ["-", "-"]
    assert all(0 <= float(value) <= 100 for line in values.values() for value in line if value != "-")


def test_only_embedded_sets_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert world.main(["tiny_prnt"]) == 2 and world.main(["dtd"]) == 2
    unknown, foreign = capsys.readouterr().err.splitlines()
    assert "did you mean TinyPrint" in unknown and "DescribableTextures is not of the embedded world" in foreign
