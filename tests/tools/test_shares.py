"""What a rank has of a step, against numbers computed by hand or by drawing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tools.shares import Share

ALL = Share(ranks=2, batch=1, classes=4, candidates=0, width=8, parameters=10, state=10)
POMP = Share(ranks=8, batch=32, classes=10_450, candidates=1000, width=512, parameters=8192, state=8192, views=4)


def test_all_classes() -> None:
    assert (ALL.global_batch, ALL.texts, ALL.own_texts, ALL.own_classes) == (2, 4, 2, 2)
    assert ALL.feature_bytes == 4 * 8 * 4
    assert ALL.prompt_bytes == (10 + 10 + 10) * 4
    # features: its own 2 x 8 numbers once; their gradient, 4 x 8 numbers: half of them as sums, half as results;
    # the prompts' gradient, 10 numbers, likewise
    assert ALL.sent_bytes == (16 + 16 + 16 + 5 + 5) * 4


def test_one_rank_sends_nothing() -> None:
    alone = replace(ALL, ranks=1)
    assert (alone.own_texts, alone.sent_bytes) == (4, 0)


def test_expected_number_of_distinct_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(200):
        label = torch.randint(POMP.classes, (POMP.global_batch,), generator=generator)
        drawn = torch.randperm(POMP.classes, generator=generator)[: POMP.candidates - 1]
        counts.append(len(torch.cat([label, drawn]).unique()))
    assert POMP.texts == pytest.approx(sum(counts) / len(counts), abs=2)  # 1228, standard deviation 0.4
    assert POMP.own_texts == -(-POMP.texts // 8) and POMP.own_classes == 1307


def test_contexts_per_image_are_not_shared() -> None:
    apart = replace(ALL, shares_texts=False)
    assert (apart.own_texts, apart.own_classes, apart.sent_bytes) == (4, 4, 40)


def test_each_pass_sends_its_features() -> None:
    twice = replace(ALL, passes=2)
    assert twice.sent_bytes == (2 * 48 + 10) * 4
    assert "2 of 4 a step (all classes), in each of 2 passes" in dict(twice.rows())["class texts of a rank"]


def test_rows() -> None:
    rows = dict(POMP.rows())
    assert rows["images of a rank"] == "32 of 256 a step (4 views of each)"
    assert rows["class texts of a rank"] == "154 of 1,228 a step (expected: labels and 999 sampled)"
    assert rows["class features"].startswith("2.51 MB")
    # 7 x (3 x 154 x 512 + 2 x 1024) numbers
    assert rows["sent by a rank"] == "6.68 MB a step"
