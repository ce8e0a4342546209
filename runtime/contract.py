"""The contract: what a model takes and gives, by name, written into the model's own metadata.

Exported files carry it as JSON under the metadata key ``posewarp.contract``; a session reads it, checks the
caller's arrays against it and binds them by name. A file without it still opens: its contract is then
what the runtime library declares of its inputs and outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from posewarp.runtime.device_array import DeviceArray
from posewarp.runtime.errors import ContractError

METADATA_KEY = "posewarp.contract"

# What may arrive where float32 is declared: numpy's default float, the ints of a hand-written keypoint list.
# Not uint8: that is a picture, whose range of values is not the network's.
_LOSSLESS_ENOUGH = {"float32": ("float64", "float16", "int64", "int32")}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: the name it is bound by.
        dtype: numpy's name of its type, such as ``uint8``.
        shape: one entry an axis; a number is fixed, a string names a dynamic axis (equal names, equal sizes).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of a model, and what they mean.

    Attributes:
        io: ``image`` (uint8 pictures and keypoints in pixels), ``tensors`` (normalised images and heat maps),
            or ``custom`` (a user's own network).
        inputs, outputs: the tensors, in the model's order; they are bound by name.
        settings: what a caller must know besides, all plain JSON: ``height``, ``width`` (pixels, the
            network's own size), ``size_multiple`` (where height and width are dynamic), ``minimum`` (the
            smallest size of dynamic axes, by name), ``heatmap_sigma_px``, ``heatmap_kind``, ``keypoint_order``,
            ``flow`` (the internal tensor that holds the flow in pixels of the feature map, (N, 2, H/4, W/4)).
    """

    io: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Read what ``to_json`` wrote.

        Raises: ContractError if the text is not a contract.
        """
        try:
            data = json.loads(text)
            return cls(
                io=str(data["io"]),
                inputs=tuple(_spec(entry) for entry in data["inputs"]),
                outputs=tuple(_spec(entry) for entry in data["outputs"]),
                settings=_settings(data.get("settings", {})),
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise ContractError(
                f"the model's metadata entry {METADATA_KEY} is not a contract ({type(exc).__name__}: {exc}); "
                "export the model again"
            ) from exc

    def prepare(self, feeds: Mapping[str, object]) -> dict[str, np.ndarray | DeviceArray]:
        """Check arrays against the inputs and make them fit for a runtime: native byte order, contiguous.

        float64, float16 and integers are cast where float32 is declared. Any other difference of type is
        refused, since it says that a wrong array was passed: a uint8 picture for a normalised one.

        Args:
            feeds: one array-like for each input, by name; a ``DeviceArray`` must have the very type.

        Returns: the arrays in the contract's order. An array that already fits is passed through, not copied.
        Raises: ContractError if a name, type, rank or size differs from the contract.
        """
        self._check_names(feeds)
        sizes: dict[str, tuple[int, str]] = {}
        arrays = {spec.name: self._fit(spec, feeds[spec.name], sizes) for spec in self.inputs}
        multiple = self.settings.get("size_multiple", 1)
        for axis in ("height", "width"):
            size, name = sizes.get(axis, (multiple, ""))
            if size % multiple:
                raise ContractError(
                    f"input {name} has {axis} {size}, expected a multiple of {multiple}; scale or pad it",
                    got=size,
                    expected=multiple,
                )
        for axis, smallest in self.settings.get("minimum", {}).items():
            size, name = sizes.get(axis, (smallest, ""))
            if size < smallest:
                raise ContractError(
                    f"input {name} has {axis} {size}, expected at least {smallest}",
                    got=size,
                    expected=smallest,
                )
        return arrays

    def _check_names(self, feeds: Mapping[str, object]) -> None:
        wanted = [spec.name for spec in self.inputs]
        missing = [name for name in wanted if name not in feeds]
        unknown = [name for name in feeds if name not in wanted]
        if missing or unknown:
            parts = [f"missing input {', '.join(missing)}"] if missing else []
            parts += [f"unknown input {', '.join(map(str, unknown))}"] if unknown else []
            raise ContractError(
                f"{' and '.join(parts)}; the model takes {', '.join(wanted)}",
                got=list(feeds),
                expected=wanted,
            )

    @staticmethod
    def _fit(spec: TensorSpec, value: object, sizes: dict[str, tuple[int, str]]) -> np.ndarray | DeviceArray:
        try:
            array = value if isinstance(value, DeviceArray) else np.asarray(value)
        except (ValueError, TypeError, RuntimeError) as exc:  # a ragged list, a torch tensor on a GPU
            raise ContractError(f"input {spec.name} is not an array: {exc}", expected=str(spec)) from exc
        wanted = np.dtype(spec.dtype)
        on_device = isinstance(array, DeviceArray)
        native = array.dtype.newbyteorder("=")
        castable = () if on_device else _LOSSLESS_ENOUGH.get(spec.dtype, ())
        if native != wanted and native.name not in castable:
            raise ContractError(
                f"input {spec.name} has type {array.dtype}, expected {spec.dtype}; convert it, "
                "and its range of values too",
                got=str(array.dtype),
                expected=spec.dtype,
            )
        if array.ndim != len(spec.shape):
            raise ContractError(
                f"input {spec.name} has shape {array.shape}, expected {len(spec.shape)} axes "
                f"({', '.join(map(str, spec.shape))})",
                got=array.shape,
                expected=spec.shape,
            )
        for axis, (size, declared) in enumerate(zip(array.shape, spec.shape, strict=True)):
            if isinstance(declared, int) and size != declared:
                raise ContractError(
                    f"input {spec.name} has shape {array.shape}, expected {declared} on axis {axis} "
                    f"({', '.join(map(str, spec.shape))})",
                    got=array.shape,
                    expected=spec.shape,
                )
            if isinstance(declared, str):
                first_size, first_name = sizes.setdefault(declared, (size, spec.name))
                if size != first_size:
                    raise ContractError(
                        f"input {spec.name} has {declared} = {size}, "
                        f"but input {first_name} has {first_size}; they must agree",
                        got=array.shape,
                        expected=spec.shape,
                    )
        # Not ascontiguousarray, which gives a scalar one axis.
        return array if on_device else np.asarray(array, dtype=wanted, order="C")


def _settings(data: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: data[name] for name in ("height", "width", "size_multiple") if name in data}
    for name, size in {**sizes, **data.get("minimum", {})}.items():
        if type(size) is not int or size < 1:
            raise TypeError(f"{name} is {size!r}, not a positive whole number")
    return dict(data)


def _spec(entry: Mapping[str, object]) -> TensorSpec:
    shape = entry["shape"]
    if not isinstance(shape, list) or not all(isinstance(size, (int, str)) for size in shape):
        raise TypeError(f"shape {shape} is not a list of numbers and names")
    return TensorSpec(str(entry["name"]), str(entry["dtype"]), tuple(shape))
