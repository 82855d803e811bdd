"""Read a checkpoint without running anything that it contains.

The files that prompt-learning authors distribute hold pickled optimiser and scheduler objects beside the tensors, so
``torch.load(weights_only=True)`` refuses them. Here tensors and plain containers are rebuilt, and every other object
becomes an inert ``Placeholder``: nothing that a file names is imported or called.
"""

import collections
import os
import pickle
import tarfile
import zipfile
from types import SimpleNamespace
from typing import Any

import torch

__all__ = ["Placeholder", "check_archive", "safe_load"]

# torch stores tensors uncompressed: an honest archive unpacks to no more than its own size. This much more is granted.
_PACKED_BYTES = 1 << 26


class Placeholder:
    """Stands for an object that was not rebuilt. Accepts whatever unpickling does to it, and keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...
    def __new__(cls, *_: Any, **__: Any) -> "Placeholder":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...
    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...


class _PlainDict(dict):
    """Takes the place of ``collections.defaultdict``, whose argument would be a function named by the file."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _PlainDict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
    **{("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)},
    **{("torch", cls.__name__): cls for cls in torch._storage_classes},
}


# The Python implementation: an index in a pickle costs the C one memory for all indices below it.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), Placeholder)


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


def check_archive(path: str) -> None:
    """``ValueError`` for what must not be read at all: a file that unpacks to far more than its size, a program."""
    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # torch's own test; zipfile's looks elsewhere
    if not is_zip:
        if tarfile.is_tarfile(path):
            raise ValueError(f'"{path}" is a tar file, not a checkpoint')
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        names = torch._C.PyTorchFileReader(path).get_all_records() if unpacked < _limit(path) else []
    except (zipfile.BadZipFile, RuntimeError, ValueError, NotImplementedError) as error:
        raise _unreadable(path, error) from error
    if unpacked >= _limit(path):
        raise ValueError(
            f'"{path}" would unpack from {os.path.getsize(path):,} to {unpacked:,} bytes: not a checkpoint'
        )
    if "constants.pkl" in names:
        raise ValueError(f'"{path}" is a TorchScript archive, not a checkpoint of tensors')


def _limit(path: str) -> int:
    return os.path.getsize(path) + _PACKED_BYTES


def _unreadable(path: str, error: Exception) -> ValueError:
    why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ValueError(
        f'Unable to load checkpoint from "{path}": truncated or not a checkpoint ({why}); copy it again, or remove it'
    )


def safe_load(path: str) -> Any:
    """What ``torch.load`` would return, on the CPU, with placeholders for everything but tensors and plain data.

    Raises ``ValueError`` naming ``path`` if it is truncated, a TorchScript archive, or no checkpoint at all.
    """
    check_archive(path)
    reader = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted pickle")
    try:
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:  # a damaged file can fail in any way
        raise _unreadable(path, error) from error
