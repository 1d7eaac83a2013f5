"""What users pass in, seen as addresses: one view of NumPy, CuPy, DLPack and CUDA-interface arrays, and its checks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import devices
from ..kernels.backend.streams import not_recorded

if TYPE_CHECKING:
    from ..kernels.backend.streams import Order, Unordered
    from ..typing import Array

DTYPES = ("float16", "bfloat16", "float32", "float64")
_CPU, _PINNED = 1, 3  # DLPack's device types that NumPy can read


@dataclass(frozen=True)
class View:
    """An array as kernels see it. strides are in elements; owner, NumPy's or CuPy's view of it, keeps the memory alive.

    torch: the module, if it is a tensor.
    """

    name: str
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    itemsize: int
    writable: bool
    device: str
    owner: Array
    torch: ModuleType | None = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def extent(self) -> tuple[int, int]:
        """The first byte and the byte after the last, whatever the signs of the strides."""
        if self.size == 0:
            return self.address, self.address
        steps = [(n - 1) * s * self.itemsize for n, s in zip(self.shape, self.strides, strict=True)]
        low = self.address + sum(s for s in steps if s < 0)
        return low, self.address + sum(s for s in steps if s > 0) + self.itemsize


def view(array: Array, name: str) -> View:
    """A View of an array, zero copy. TypeError or ValueError, naming `name`, for what kernels cannot take."""
    torch = torch_of(array)
    array, dtype = _native(array, name)
    if dtype not in DTYPES:
        raise TypeError(f"{name}: expected dtype {', '.join(DTYPES)}, got {dtype}")
    itemsize = array.dtype.itemsize
    on_host = isinstance(array, np.ndarray)
    address = array.ctypes.data if on_host else array.data.ptr
    if address % itemsize or any(s % itemsize for s in array.strides):
        raise ValueError(f"{name}: its elements must lie at multiples of their size, {itemsize} bytes")
    return View(
        name,
        address,
        array.shape,
        tuple(s // itemsize for s in array.strides),
        dtype,
        itemsize,
        array.flags.writeable if on_host else True,
        "cpu" if on_host else "cuda",
        array,
        torch,
    )


def torch_of(array: Array) -> ModuleType | None:
    """The module torch, if this is a tensor of it; else None."""
    torch = sys.modules.get("torch") if hasattr(array, "data_ptr") else None
    return torch if torch is not None and isinstance(array, torch.Tensor) else None


def genuine(array: Array, name: str) -> Array:
    """The array itself; TypeError for one whose memory, if it has any, does not hold its values."""
    if "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray):  # which NumPy imports when it is asked for
        raise TypeError(f"{name}: a masked array, whose mask would be lost; pass its .filled(value)")
    torch = torch_of(array)
    if torch is None:
        return array
    if array.requires_grad:
        raise TypeError(f"{name}: a tensor that requires grad; pass its .detach()")
    kind = type(array)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        local = "; pass its .to_local()" if hasattr(array, "to_local") else ""
        raise TypeError(f"{name}: a {kind.__name__}, which only wraps tensors{local}")
    if array.layout is not torch.strided or array.is_nested or array.is_quantized:
        what = "nested" if array.is_nested else "quantized" if array.is_quantized else str(array.layout)
        raise TypeError(f"{name}: expected a dense tensor of numbers, got a {what.removeprefix('torch.')} one")
    try:
        is_there = array.device.type != "meta" and (array.data_ptr() or not array.numel())
    except (RuntimeError, ValueError):  # of functorch's tensors, and parameters that are not initialised
        is_there = False
    if not is_there:
        raise TypeError(f"{name}: a tensor without memory of its own, on the device {array.device}")
    if array.is_neg() or array.is_conj():
        raise TypeError(f"{name}: a lazily negated or conjugated tensor; pass its .resolve_neg().resolve_conj()")
    return array


def _native(array: Array, name: str) -> tuple[Array, str]:
    """The NumPy or CuPy array that shares the memory of `array`, and the dtype's name."""
    if type(array) is np.ndarray:
        return array, _dtype_name(array.dtype)
    array = genuine(array, name)
    if isinstance(array, np.ndarray):
        return array, _dtype_name(array.dtype)
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return array, _dtype_name(array.dtype)
    dtype = str(getattr(array, "dtype", "")).removeprefix("torch.")
    if dtype == "bfloat16" and hasattr(array, "data_ptr"):  # NumPy refuses bfloat16 through DLPack
        array = array.view(sys.modules["torch"].int16)
    try:
        native = _shared(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(
            f"{name}: cannot share the memory of this {type(array).__name__}, dtype {dtype} ({reason})"
        ) from None
    if native is None:
        raise TypeError(
            f"{name}: expected a NumPy or CuPy array, or one that speaks DLPack, got {type(array).__name__}"
        )
    return native, dtype if dtype == "bfloat16" else _dtype_name(native.dtype)


def _shared(array: Array) -> Array | None:
    """NumPy's or CuPy's array of the same memory; None for what offers none."""
    if hasattr(array, "__cuda_array_interface__"):
        import cupy

        return cupy.asarray(array)
    if not hasattr(array, "__dlpack__"):
        return None
    if array.__dlpack_device__()[0] in (_CPU, _PINNED):
        return np.from_dlpack(array)
    import cupy

    return cupy.from_dlpack(array)


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} in foreign byte order"


def contiguous(v: View) -> View:
    """The view itself; ValueError unless it is C-contiguous."""
    if v.size and not is_packed(v.shape, v.strides):
        raise ValueError(f"{v.name}: must be C-contiguous; copy it with ascontiguousarray")
    return v


def writable(v: View) -> View:
    """The view itself; ValueError unless it is C-contiguous and writable."""
    if not v.writable:
        raise ValueError(f"{v.name}: must be writable, but is read-only")
    return contiguous(v)


def is_packed(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements of this shape and these strides, counted in elements, are C-contiguous."""
    expected = 1
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return True


def disjoint(written: Sequence[View], read: Sequence[View] = ()) -> None:
    """ValueError, naming both, if memory that is written overlaps any other."""
    marked = sorted([(*v.extent, True, v.name) for v in written] + [(*v.extent, False, v.name) for v in read])
    end, end_name, read_end, read_name = -1, "", -1, ""  # how far memory seen so far reaches
    for low, high, is_written, name in marked:
        if low == high:
            continue
        if low < end or (is_written and low < read_end):
            other = end_name if low < end else read_name
            raise ValueError(f"{name}: overlaps the memory of {other}")
        if is_written and high > end:
            end, end_name = high, name
        elif not is_written and high > read_end:
            read_end, read_name = high, name


def kernel_device(views: Sequence[View]) -> tuple[str, ModuleType]:
    """(kernels' device, array module) for views that all live on one device; ValueError if they do not."""
    homes = {v.device for v in views}
    if len(homes) > 1:
        other = next(v for v in views if v.device != views[0].device)
        raise ValueError(f"{other.name}: is on {other.device}, but {views[0].name} is on {views[0].device}")
    if "cuda" in homes:
        import cupy

        return "cuda", cupy
    if os.environ.get("GDGPU_DEVICE"):
        asked = devices.resolve()
        if asked.name == "cuda" and devices.simulated():
            return "cuda", np
    return "cpu", np


def on_device_of(views: Sequence[View]) -> AbstractContextManager[Any]:
    """Context in which CuPy allocates and launches on the GPU of the views, for torch's tensors on torch's stream."""
    if not views or views[0].device == "cpu":
        return nullcontext()
    device, torch = views[0].owner.device, views[0].torch
    return device if torch is None else _on_stream_of(torch, device)


@contextmanager
def in_order(views: Sequence[View], order: Order | Unordered, instead: str) -> Iterator[None]:
    """There, behind all that an owner has enqueued (kernels/backend/streams). RuntimeError while a graph records."""
    with on_device_of(views):
        not_recorded(order.follow(), instead)
        yield


@contextmanager
def _on_stream_of(torch: Any, device: Any) -> Iterator[None]:
    with device, _of_cupy(torch.cuda.current_stream(device.id)):
        yield


class _Foreign:
    """A stream of torch's, which has the protocol of __cuda_stream__ in later versions only."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.stream.cuda_stream


def _of_cupy(stream: Any) -> Any:
    """torch's stream as one of CuPy's."""
    from cupy import cuda

    if hasattr(cuda.Stream, "from_external"):
        return cuda.Stream.from_external(_Foreign(stream))
    return cuda.ExternalStream(stream.cuda_stream)  # before CuPy 14
