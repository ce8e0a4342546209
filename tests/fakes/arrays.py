"""Arrays on a FakeGpu that a caller would own: by __cuda_array_interface__, or by DLPack as torch has it."""

from __future__ import annotations

import ctypes

import numpy as np

from fakes.gpu import LEGACY, FakeGpu, Work

_CODES = {"i": 0, "u": 1, "f": 2}


class _Base:
    """An array whose content is still to be written by work on the caller's stream."""

    def __init__(self, gpu: FakeGpu, content: np.ndarray, stream: int = LEGACY):
        self.gpu, self.stream, self.shape, self.dtype = gpu, stream, content.shape, content.dtype
        self.block = gpu.allocate(content.nbytes, "device")
        self.span = gpu.span(self.block.address, content.nbytes, "an array")
        source = content.copy()

        def act() -> None:
            self.span.data[:] = source.view(np.uint8).reshape(-1)

        gpu.give(stream, Work("the caller's work", [], [self.span], act))

    def get(self) -> np.ndarray:
        """What is there now, without waiting."""
        return self.span.data.view(self.dtype).reshape(self.shape).copy()

    def free(self) -> None:
        self.gpu.free(self.block.address, "device")


class InterfaceArray(_Base):
    """As cupy's and numba's."""

    said_stream: int | None = 0  # 0: the stream it was made on
    read_only = False
    strides: tuple[int, ...] | None = None

    @property
    def __cuda_array_interface__(self) -> dict:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.block.address, self.read_only),
            "strides": self.strides,
            "stream": self.stream if self.said_stream == 0 else self.said_stream,
            "version": 3,
        }


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class DlpackArray(_Base):
    """As torch's tensors: it orders the consumer's stream itself, and says no stream."""

    device = (2, 0)
    offset = 0  # in bytes, of the view in its memory
    elements: tuple[int, ...] | None = None  # strides

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: int) -> object:
        if stream != -1 and stream != self.stream:
            self.gpu.wait(stream, self.gpu.record(self.stream))
        strides = self.elements or tuple(
            int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape))
        )
        rank = len(self.shape)
        self._kept = (ctypes.c_int64 * rank)(*self.shape), (ctypes.c_int64 * rank)(*strides)
        address = self.block.address - self.offset
        self._tensor = _Tensor(
            address,
            (ctypes.c_int32 * 2)(*self.device),
            rank,
            _CODES[self.dtype.kind],
            self.dtype.itemsize * 8,
            1,
            *(ctypes.addressof(each) for each in self._kept),
            self.offset,
        )
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._tensor), b"dltensor", None)
