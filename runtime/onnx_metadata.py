"""The flat strings in an ONNX file's metadata, read without the onnx package: the graph is skipped, not parsed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from posewarp.runtime.errors import ContractError

# onnx.proto: ModelProto.graph and .metadata_props, StringStringEntryProto.key and .value.
_GRAPH, _METADATA, _KEY, _VALUE = 7, 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read ``metadata_props`` of an ONNX file.

    Raises: ContractError if the file cannot be read or is no ONNX file.
    """
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            spans = _spans(file, 0, end)
            if _GRAPH not in dict(spans):
                raise ValueError("no graph")
            entries = [dict(_fields(file, *span)) for number, span in spans if number == _METADATA]
        return {entry[_KEY].decode(): entry.get(_VALUE, b"").decode() for entry in entries}
    except OSError as exc:
        raise ContractError(f"the contract's file {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, KeyError) as exc:
        raise ContractError(f"the contract's file {path} is not an ONNX file, or is cut short") from exc


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    for number, (first, last) in _spans(file, start, end):
        file.seek(first)
        yield number, file.read(last - first)


def _spans(file: BinaryIO, start: int, end: int) -> list[tuple[int, tuple[int, int]]]:
    """Number and place of each field of a message; of a number, an empty place."""
    spans, at = [], start
    while at < end:
        file.seek(at)
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _varint(file)
            length = 0
        elif wire == _BYTES:
            length = _varint(file)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        first = file.tell()
        at = first + length
        if number == 0 or at > end:
            raise ValueError("a field reaches beyond its message")
        spans.append((number, (first, at)))
    return spans


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte or shift > 63:
            raise ValueError("a number is cut short")
        value |= (byte[0] & 127) << shift  # 7 bits a byte, low bits first
        if byte[0] < 128:
            return value
        shift += 7
