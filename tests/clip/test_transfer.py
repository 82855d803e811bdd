"""Many tensors in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clip.transfer import in_one_piece, to_device


@dataclass(frozen=True)
class Tree:
    some: tuple[Tensor, Tensor | None]
    name: str
    more: Tree | None = None


def test_values_types_and_shapes_survive_in_one_copy() -> None:
    mask, index = torch.tensor([[True, False, True]]), torch.arange(6).view(2, 3)
    shift = torch.tensor([[0.1], [0.2]], dtype=torch.float64).expand(2, 5)
    inner = Tree((shift, torch.empty(0, dtype=torch.long)), "inner")
    tree, copies = Tree((mask, None), "outer", inner), []
    found, (again, flipped) = in_one_piece(
        (tree, (index, index.t())), lambda buffer: copies.append(buffer) or buffer.clone(), pinned=False
    )
    assert len(copies) == 1
    assert (found.name, found.some[1], found.more.name, found.more.more) == ("outer", None, "inner", None)
    pairs = [(found.some[0], mask), (again, index), (flipped, index.t()), *zip(found.more.some, inner.some)]
    for tensor, expected in pairs:
        assert tensor.dtype == expected.dtype and torch.equal(tensor, expected)


def test_on_the_host_nothing_is_copied() -> None:
    tree = Tree((torch.ones(2), None), "here")
    assert to_device(tree, torch.device("cpu")) is tree
