"""Read the weights of a TorchScript archive, the form of OpenAI's files, without TorchScript.

``torch.jit.load`` runs what an archive brings along (``__setstate__`` of its modules). Here the archive's pickle is
read with an unpickler that knows names and numbers only: modules become inert ``Module`` objects, tensors become
``View`` records, everything else ``Opaque``. Tensors are then made from the stored bytes, with all bounds checked.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

# torch stores tensors uncompressed and TorchScript packs its code, so an honest archive unpacks to little more than
# its own size; this much more is granted.
PACKED_BYTES = 1 << 26
STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Opaque:
    """Stands for whatever is neither a module nor a tensor."""

    def __new__(cls, *_: Any) -> Opaque:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...
    def __setstate__(self, _: Any) -> None: ...


class Module:
    """A module of the archive: its attributes by name. Each class of the archive is a subclass with its ``origin``."""

    origin = ""
    attributes: dict[str, Any]

    def __new__(cls, *_: Any) -> Module:
        module = super().__new__(cls)
        module.attributes = {}
        return module

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class Storage(NamedTuple):
    """Numbers in one entry of the archive."""

    key: str
    dtype: torch.dtype
    size: int


class View(NamedTuple):
    """Arguments of ``torch._utils._rebuild_tensor_v2``."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    rest: tuple[Any, ...]  # requires_grad, hooks


# The Python implementation: an index in a pickle costs the C one memory for all indices below it.
class Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type("ArchivedModule", (Module,), {"origin": f"{module}.{name}"})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *rest: View(storage, offset, size, stride, rest)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return STORAGE_TYPES.get(name, Opaque) if module == "torch" else Opaque

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, size = pid  # the fourth is the device: all comes to the CPU
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a reference to {str(pid)[:80]}")
        return Storage(key, dtype, size)


def check_size(archive: zipfile.ZipFile, file_size: int) -> None:
    """ValueError if the archive unpacks to much more than its own size."""
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > file_size + PACKED_BYTES:
        raise ValueError(f"it would unpack from {file_size:,} to {unpacked:,} bytes")


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by dotted name, as the archived module's ``state_dict()`` has them, on the CPU.

    Raises whatever a damaged file leads to.
    """
    with zipfile.ZipFile(path) as archive:
        top = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        top = top.removesuffix("data.pkl")
        root = Unpickler(io.BytesIO(archive.read(f"{top}data.pkl"))).load()
        entries: dict[str, Tensor] = {}
        weights = {}
        for name, view in named_tensors(root, archive, f"{top}code/"):
            key = view.storage.key
            if key not in entries:
                entries[key] = numbers(archive.read(f"{top}data/{key}"), view.storage)
            weights[name] = strided(entries[key], view, name)
        return weights


def declared_in(module: Module, archive: zipfile.ZipFile, folder: str) -> set[str] | None:
    """Names of a module's parameters and buffers, as the code of its class lists them: other tensors are no weights.

    None if it does not list both: before torch 1.6 every tensor was one or the other.
    """
    *path, name = module.origin.split(".")
    entry = f"{folder}{'/'.join(path)}.py"
    code = archive.read(entry).decode() if entry in archive.NameToInfo else ""
    body = re.search(rf"^class {re.escape(name)}\(Module\):\n((?:  .*\n|\n)*)", code, re.M)
    lists = re.findall(r"^  __(?:parameters|buffers)__ = \[(.*)\]$", body.group(1), re.M) if body else []
    return set(re.findall(r'"([^"]*)"', ",".join(lists))) if len(lists) == 2 else None


def named_tensors(root: Any, archive: zipfile.ZipFile, folder: str) -> Iterator[tuple[str, View]]:
    """Dotted names and tensors of the tree of modules below ``root``."""
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, Module):
            raise ValueError("it holds no module")
        if id(module) in seen:  # a few modules that hold each other have any number of names
            raise ValueError(f"one module has two names: {prefix[:40]}")
        seen.add(id(module))
        declared = declared_in(module, archive, folder)
        for name, value in module.attributes.items():
            if isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, View) and (declared is None or name in declared):
                yield f"{prefix}{name}", value


def numbers(data: bytes, storage: Storage) -> Tensor:
    """The stored numbers as a flat tensor."""
    if len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"{len(data):,} bytes where {storage.size:,} numbers of {storage.dtype} belong")
    return torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)


def strided(flat: Tensor, view: View, name: str) -> Tensor:
    """The tensor that ``view`` describes; ValueError if it reaches beyond its storage or repeats numbers."""
    steps = [view.offset, *view.size, *view.stride]
    sound = all(isinstance(step, int) and step >= 0 for step in steps) and len(view.size) == len(view.stride)
    last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride)) if sound else 0
    if not sound or math.prod(view.size) > len(flat) or (math.prod(view.size) and last >= len(flat)):
        raise ValueError(f"{name} does not fit its {len(flat):,} stored numbers")
    return torch.as_strided(flat, view.size, view.stride, view.offset)
