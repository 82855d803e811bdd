"""A GPU that is not there: real CPU tensors, CUDA tensors without values, a log of what it would do and wait for.

    with FakeGPU() as gpu:
        trainer = build_trainer(cfg)  # torch.cuda.is_available() is true
        gpu.clear()
        trainer.forward_backward(batch)
    gpu.ops, gpu.uploads, gpu.waits

What mixes devices raises, as on a GPU; so does what reads a value of the GPU, which would stop the host until all its
work is done and which nothing could answer here. It knows nothing of methods and trainers.

Run it in a process of its own. A CUDA build of PyTorch would have autograd ask the driver for streams: so C++ is told
that the tensors are on ``meta`` (autocast excepted), and a stand-in accelerator is registered, for good.
"""

from __future__ import annotations

import os
import traceback
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# No kernel, though they make tensors.
FREE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.lift_fresh}
FREE |= {aten.detach, aten.alias, aten._unsafe_view}
# In place, and PyTorch has no shapes-only version of them.
IN_PLACE = {aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_}
IN_PLACE |= {aten._amp_foreach_non_finite_check_and_unscale_, aten._amp_update_scale_}
CUDA = {
    "_lazy_init": None,
    "is_available": True,
    "device_count": 1,
    "current_device": 0,
    "get_device_capability": (8, 0),
    "is_bf16_supported": True,
    "is_current_stream_capturing": False,
    "synchronize": None,
}


CARD, ALIAS = torch.device("cuda:0"), torch.device("meta")
STAND_IN = "stand_in"  # the accelerator that autograd asks for streams in the GPU's place


class HostWait(RuntimeError):
    """The host would wait for the GPU."""


class Op(NamedTuple):
    """A dispatched operator that is no view: mostly one kernel, sometimes two or three."""

    name: str
    shapes: tuple[tuple[int, ...], ...]  # of the tensors that go in
    dtype: torch.dtype | None  # of the first that comes out; None: in place


class Upload(NamedTuple):
    """A copy from the host. It waits unless it is ``non_blocking``, and overlaps with the GPU's work only if pinned."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pinned: bool
    where: str


class FakeGPU(TorchDispatchMode):
    """ops and uploads in order; waits: each as a line that says what and where."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode()
        self.pinned: dict[int, Tensor] = {}  # by address; keeps them alive, lest an address be used again
        self.ops: list[Op] = []
        self.uploads: list[Upload] = []
        self.waits: list[str] = []

    def clear(self) -> None:
        """Forget what was logged."""
        self.ops, self.uploads, self.waits = [], [], []

    def __enter__(self) -> FakeGPU:
        if torch.backends.cuda.is_built() and not torch.cuda.is_available():
            if not hasattr(torch, STAND_IN):
                _setup_privateuseone_for_python_backend(STAND_IN, mock.MagicMock())
            torch._C._ensureCUDADeviceGuardSet()
        self.stack = ExitStack()
        self.stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        for name, value in CUDA.items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value))
        self.stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        self.stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", property(lambda t: t.device.type == "cuda")))
        self.stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") as the copy that it is
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.stack.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:  # asked by C++; Python is told by FakeTensor.device
            return CARD if torch.is_autocast_enabled("cuda") else ALIAS
        args, kwargs = tree_map_only(torch.device, lambda d: CARD if d.type in ("cuda", "meta") else d, (args, kwargs))
        leaves = tree_leaves((args, kwargs))
        real = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor)]
        devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
        if CARD not in devices and not any(isinstance(leaf, FakeTensor) for leaf in leaves):
            return self.on_host(func, args, kwargs)
        if func.overloadpacket is aten._to_copy:
            if real:
                return self.upload(args[0], **kwargs)
            if torch.device("cpu") in devices:
                return self.wait(f"{func} to the host")
            if CARD in devices and kwargs.get("dtype") in (None, args[0].dtype) and not kwargs.get("memory_format"):
                func, kwargs = aten.alias.default, {}  # it is there already
        if func.overloadpacket is aten.copy_ and real:
            return self.refill(*args, **kwargs)
        return self.on_card(func, args, kwargs, real)

    def on_card(self, func, args, kwargs, real: list[Tensor]):
        """Shapes and types only. ``real``: those of the arguments that are on the host."""
        packet = func.overloadpacket
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if packet in IN_PLACE:
            self.launched(packet, tensors, None)
            return args[0] if packet is aten._amp_update_scale_ else None
        try:
            with self.fake:
                out = func(*tree_map_only(Tensor, self.lifted, args), **tree_map_only(Tensor, self.lifted, kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException):
            return self.wait(str(func))
        except RuntimeError as error:  # devices or shapes that do not fit; PyTorch's own cannot go between processes
            raise RuntimeError(f"{error}, at {where()}") from None
        if any(tensor.dim() for tensor in real):  # indices, which the operator copies itself
            self.waits.append(f"{func} with a tensor on the host, at {where()}")
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made and not (func.is_view or packet in FREE):
            self.launched(packet, tensors, made[0].dtype)
        return out

    def lifted(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fake.from_tensor(tensor)

    def launched(self, packet: object, tensors: list[Tensor], dtype: torch.dtype | None) -> None:
        self.ops.append(Op(str(packet).removeprefix("aten."), tuple(tuple(t.shape) for t in tensors), dtype))

    def wait(self, what: str) -> None:
        self.waits.append(f"{what}, at {where()}")
        raise HostWait(self.waits[-1])

    def on_host(self, func, args, kwargs):
        """For real; pinned memory is only remembered as such."""
        if func.overloadpacket is aten.is_pinned:
            return args[0].untyped_storage().data_ptr() in self.pinned
        pin = func.overloadpacket is aten._pin_memory
        out = (
            args[0].clone()
            if pin
            else func(*args, **{**kwargs, "pin_memory": False} if "pin_memory" in kwargs else kwargs)
        )
        if pin or kwargs.get("pin_memory"):
            self.pinned[out.untyped_storage().data_ptr()] = out
        return out

    def upload(self, real: Tensor, dtype: torch.dtype | None = None, non_blocking: bool = False, **_: object) -> Tensor:
        self.copied(real, non_blocking)
        with self.fake:
            return torch.empty_strided(real.shape, real.stride(), dtype=dtype or real.dtype, device="cuda")

    def refill(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not isinstance(target, FakeTensor):
            return self.wait("copy_ to the host")
        self.copied(source, non_blocking)
        return target

    def copied(self, real: Tensor, non_blocking: bool) -> None:
        pinned = real.untyped_storage().data_ptr() in self.pinned
        self.uploads.append(Upload(tuple(real.shape), real.dtype, pinned, where()))
        if not non_blocking:
            self.waits.append(f"a copy of {tuple(real.shape)} from the host without non_blocking, at {where()}")


def where() -> str:
    """The innermost line that is neither PyTorch's nor ours."""
    frames = [f for f in traceback.extract_stack() if f.filename != __file__ and not f.filename.startswith("<")]
    own = [f for f in frames if "site-packages" not in f.filename and "/lib/python3" not in f.filename]
    return f"{os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else "?"


original_attention = F.scaled_dot_product_attention


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """The fused operator that a GPU takes, which PyTorch would ask the driver for."""
    if not isinstance(query, FakeTensor):
        return original_attention(query, key, value, attn_mask, dropout_p, is_causal)
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (t.to(torch.get_autocast_dtype("cuda")) for t in (query, key, value))
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal)[0]
    if attn_mask is not None:
        attn_mask = torch.where(attn_mask, 0.0, float("-inf")).to(query.dtype)
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, keep, dropout_p, is_causal)[0]
