"""Arrays that lie on a CUDA device already: torch, cupy, numba, pycuda, by DLPack or __cuda_array_interface__.

Neither protocol needs the library that made the array, so nothing is imported here. Both also say when the data are
there: work that is still to be done on another stream must come before ours.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from posewarp.runtime.errors import ContractError

LEGACY_STREAM = 1  # the default stream of CUDA, as __cuda_array_interface__ and DLPack number it

_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's device types
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}  # DLPack's type codes that numpy has


class Waits(Protocol):
    """The part of a device that orders streams."""

    def handle(self, stream: Any) -> int: ...

    def wait(self, stream: Any, other: int) -> None: ...


@dataclass(frozen=True)
class DeviceArray:
    """A contiguous array on a CUDA device, which its owner keeps.

    Attributes:
        address: of its first byte.
        shape, dtype: as numpy has them.
        owner: the array it was made from.
        device: number of the GPU; None if the protocol does not say.
        stream: what its data wait for; None if the owner orders streams itself (DLPack).
        writeable: whether it may be an output.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    owner: Any
    device: int | None
    stream: int | None
    writeable: bool = True

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, rows: slice) -> DeviceArray:
        """A part along the first axis, on the same memory."""
        start, stop, _ = rows.indices(self.shape[0])
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        return replace(self, address=self.address + start * row, shape=(stop - start, *self.shape[1:]))

    def order_before(self, device: Waits, stream: Any) -> None:
        """Make what comes on ``stream`` wait for the work on these data that was given to the device before."""
        if self.stream is None:
            self.owner.__dlpack__(stream=device.handle(stream))
        elif self.stream != device.handle(stream):
            device.wait(stream, self.stream)


def of(value: object) -> DeviceArray | None:
    """See a value as an array on a CUDA device.

    Returns: None if it is not one: a numpy array, a tensor on the CPU.
    Raises: ContractError if it is one that cannot be used as it lies there: not contiguous, of a type that numpy
        lacks, or in need of gradients.
    """
    if isinstance(value, DeviceArray):
        return value
    # DLPack first: torch says by it which stream its data wait for, and by the other protocol does not.
    if hasattr(value, "__dlpack_device__") and hasattr(value, "__dlpack__"):
        return _from_dlpack(value) if value.__dlpack_device__()[0] in (_CUDA, _CUDA_MANAGED) else None
    interface = getattr(value, "__cuda_array_interface__", None)
    return None if interface is None else _from_interface(value, interface)


def _from_interface(value: object, interface: dict[str, Any]) -> DeviceArray:
    dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
    if interface.get("mask") is not None:
        raise ContractError("an array on the device has a mask; give one without")
    strides = interface.get("strides")
    _check_contiguous(shape, strides and tuple(stride / dtype.itemsize for stride in strides))
    address, read_only = interface["data"]
    # Version 2 has no stream, and pycuda and torch say None whatever waits: the default stream is what they use.
    stream = interface.get("stream") or LEGACY_STREAM
    return DeviceArray(int(address), shape, dtype, value, None, stream, not read_only)


class _DLTensor(ctypes.Structure):
    """dlpack.h, without versions; the first member of what a capsule named ``dltensor`` points to."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(value: Any) -> DeviceArray:
    try:
        capsule = value.__dlpack__(stream=-1)  # -1: without waiting, which ``order_before`` asks for
    except (BufferError, RuntimeError, TypeError) as exc:  # torch: requires grad, a conjugate view
        raise ContractError(f"an array on the device cannot be shared: {exc}") from exc
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer_of(capsule, b"dltensor"))
    if tensor.code not in _KINDS or tensor.lanes != 1:
        raise ContractError(f"an array on the device has DLPack's type {tensor.code}, which numpy lacks")
    kind = _KINDS[tensor.code]
    dtype = np.dtype(kind if kind == "bool" else f"{kind}{tensor.bits}")
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None
    _check_contiguous(shape, strides)
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, dtype, value, tensor.device_id, None)


def _check_contiguous(shape: tuple[int, ...], strides: tuple[float, ...] | None) -> None:
    """Strides count elements; an axis of one element may have any."""
    if strides is None or 0 in shape:
        return
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            raise ContractError(
                f"an array on the device, of shape {shape}, is not contiguous; make it so: tensor.contiguous()"
            )
        expected *= size
