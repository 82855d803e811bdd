"""Read a checkpoint without running anything that it contains.

The files that prompt-learning authors distribute hold pickled optimiser and scheduler objects beside the tensors, so
``torch.load(weights_only=True)`` refuses them. Here tensors and plain containers are rebuilt, and every other object
becomes an inert ``Placeholder``: nothing that a file names is imported or called.
"""

import collections
import pickle
import zipfile
from types import SimpleNamespace
from typing import Any

import torch

__all__ = ["Placeholder", "safe_load"]


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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), Placeholder)


def _load(file: Any, **kwargs: Any) -> Any:
    return _Unpickler(file, **kwargs).load()


def safe_load(path: str) -> Any:
    """What ``torch.load`` would return, on the CPU, with placeholders for everything but tensors and plain data.

    Raises ``ValueError`` naming ``path`` if it is truncated, a TorchScript archive, or no checkpoint at all.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(f'"{path}" is a TorchScript archive, not a checkpoint of tensors')
    reader = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted pickle")
    try:
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f'Unable to load checkpoint from "{path}": truncated or not a checkpoint ({error})') from error
