"""Index tensors from the host to the device: many small ones in one copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def to_device(tree: Tree, device: torch.device) -> Tree:
    """``tree``, tensors in dataclasses and tuples, from the host to ``device``: one copy, which nobody waits for.

    On a GPU the tensors travel behind one another in pinned memory, and are views of one buffer there.
    """
    if device.type == "cpu":
        return tree
    return in_one_piece(tree, lambda buffer: buffer.to(device, non_blocking=True), pinned=device.type == "cuda")


def in_one_piece(tree: Tree, move: Callable[[Tensor], Tensor], pinned: bool) -> Tree:
    """``tree`` with views of ``move(buffer)`` for its tensors; the buffer (bytes,) holds all of them."""
    tensors: list[Tensor] = []
    map_tensors(tensors.append, tree)
    tensors.sort(key=Tensor.element_size, reverse=True)  # stable; each starts at a multiple of its element size
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pinned)
    for part, tensor in zip(buffer.split(sizes), tensors):  # (bytes of the tensor,)
        view_as(part, tensor).copy_(tensor)
    parts = move(buffer).split(sizes)  # (bytes of the tensor,) each
    moved = {id(tensor): view_as(part, tensor) for part, tensor in zip(parts, tensors)}
    return map_tensors(lambda tensor: moved[id(tensor)], tree)


def view_as(part: Tensor, tensor: Tensor) -> Tensor:
    """The bytes ``part`` as numbers of the type and shape of ``tensor``."""
    return part.view(tensor.dtype).view(tensor.shape)  # (bytes,) -> (numbers,) -> the tensor's shape


def map_tensors(function: Callable[[Tensor], object], tree: Tree) -> Tree:
    """``tree`` with ``function(tensor)`` in the place of each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple):
        return tuple(map_tensors(function, branch) for branch in tree)
    if is_dataclass(tree):
        return replace(tree, **{f.name: map_tensors(function, getattr(tree, f.name)) for f in fields(tree)})
    return tree
