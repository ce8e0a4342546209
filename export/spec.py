"""What an export needs to know of a torch module. Ours is in generator_spec.py; users write their own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from posewarp.runtime.errors import ExportError

# The dynamic axis of this name is proven at batches 1 and 3; every other one at a second, larger size.
BATCH = "batch"


@dataclass(frozen=True)
class ExportSpec:
    """A torch module and what its ONNX file shall look like.

    Example: ``warper.py``, for ``python export/to_onnx.py --spec warper.py:spec -o warper.onnx``::

        def spec() -> ExportSpec:
            axes = {0: "batch", 2: "height", 3: "width"}
            return ExportSpec(
                module=Warper(),
                example_inputs=(torch.rand(2, 3, 64, 48), 8 * torch.randn(2, 2, 64, 48)),
                input_names=("image", "flow"),
                output_names=("warped",),
                dynamic_axes={"image": axes, "flow": axes, "warped": axes},
            )

    With a checkpoint on the command line the function is called with its path.

    Attributes:
        module: takes the inputs by position and returns a tensor, or a tuple, list or dict of tensors. It is
            copied, and the copy put into eval mode on the CPU; the module itself stays as it is.
        example_inputs: one tensor an input, as in real use, since the proof's inputs are made from them.
            Dynamic axes have a size of at least 2 (torch.export takes 1 for a constant), and elements of the
            batch differ.
        input_names, output_names: by which tensors are bound.
        dynamic_axes: of inputs and outputs, {tensor: {axis: name}}; equal names mean equal sizes. What is not
            named here is fixed at the example's size.
        multiple_of: of dynamic axes, where the module takes multiples only, {name: factor}.
        intermediates: names for further tensors, which the module returns after its outputs, in the order in
            which they are computed. They are proven before the outputs, and stay in the graph by these names.
        io: the contract's kind (see ``runtime.contract.Contract``).
        settings: the contract's settings.
        metadata: flat strings for the file, beside those that every export writes.
        notes: what the export's report shall say besides, one sentence each.

    Raises: ExportError, when made, if these do not fit together.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    multiple_of: Mapping[str, int] = field(default_factory=dict)
    intermediates: tuple[str, ...] = ()
    io: str = "custom"
    settings: Mapping[str, object] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.example_inputs) != len(self.input_names):
            raise ExportError(
                f"{len(self.example_inputs)} example inputs, but {len(self.input_names)} input names "
                f"({', '.join(self.input_names)})"
            )
        names = (*self.input_names, *self.output_names, *self.intermediates)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ExportError(f"the name {repeated[0]!r} is given to more than one tensor")
        if unknown := sorted(set(self.dynamic_axes) - set(names)):
            raise ExportError(
                f"dynamic_axes names {unknown[0]!r}, which is no input or output: {', '.join(names)}"
            )
        for name, value in zip(self.input_names, self.example_inputs, strict=True):
            if not isinstance(value, Tensor):
                raise ExportError(
                    f"example input {name} is a {type(value).__name__}, expected a torch.Tensor"
                )
            if value.is_floating_point() and value.dtype != torch.float32:
                raise ExportError(
                    f"example input {name} is {value.dtype}, expected torch.float32: pass {name}.float()"
                )
        self._check_axes()

    def _check_axes(self) -> None:
        for axes in self.dynamic_axes.values():
            for axis in axes.values():
                if not axis.isidentifier():
                    raise ExportError(f"the dynamic axis {axis!r} needs a plain name, such as height")
        sizes: dict[str, int] = {}
        for name, value in zip(self.input_names, self.example_inputs, strict=True):
            for index, axis in self.dynamic_axes.get(name, {}).items():
                if not 0 <= index < value.ndim:
                    raise ExportError(
                        f"dynamic_axes gives {name} an axis {index}; its shape is {tuple(value.shape)}"
                    )
                size, factor = value.shape[index], self.multiple_of.get(axis, 1)
                if size != sizes.setdefault(axis, size):
                    raise ExportError(f"example input {name} has {axis} = {size}, another has {sizes[axis]}")
                if size < 2 or size % factor:
                    raise ExportError(
                        f"example input {name} has {axis} = {size} on its dynamic axis {index}, expected a "
                        f"multiple of {factor} and at least 2: torch.export takes a size of 1 for a constant"
                    )
        if unfed := sorted({a for axes in self.dynamic_axes.values() for a in axes.values()} - set(sizes)):
            raise ExportError(f"the dynamic axis {unfed[0]!r} is on an output, but on no input")
        if unknown := sorted(set(self.multiple_of) - set(sizes)):
            raise ExportError(f"multiple_of names {unknown[0]!r}, which is no dynamic axis of an input")

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Size of each dynamic axis in the example inputs."""
        return {
            axis: value.shape[index]
            for name, value in zip(self.input_names, self.example_inputs, strict=True)
            for index, axis in self.dynamic_axes.get(name, {}).items()
        }

    def at_sizes(self, sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
        """The example inputs brought to other sizes of their dynamic axes, whatever their type.

        Further elements of a batch are the first ones again, mirrored along their last axis; other axes are
        stretched, each new position taking the value of the nearest old one before it.
        """
        resized = []
        for name, value in zip(self.input_names, self.example_inputs, strict=True):
            for index, axis in self.dynamic_axes.get(name, {}).items():
                old, new = value.shape[index], sizes.get(axis, value.shape[index])
                if axis != BATCH:
                    value = value.index_select(index, torch.arange(new) * old // new)
                elif new > old:
                    value = torch.cat([value, value.narrow(index, 0, new - old).flip(-1)], dim=index)
                else:
                    value = value.narrow(index, 0, new)
            resized.append(value.contiguous())
        return tuple(resized)


def load_spec(place: str, checkpoint: Path | None = None) -> ExportSpec:
    """Call a user's function that makes an ExportSpec.

    Args:
        place: ``package.module:function`` or ``path/to/file.py:function``. It may import what lies in the
            current folder, or beside the file.
        checkpoint: passed to the function, if not None.

    Raises: ExportError if it cannot be imported, fails, or returns something else.
    """
    source, _, function_name = place.rpartition(":")
    if not source or not function_name:
        raise ExportError(f"--spec {place!r}: expected package.module:function or path/to/file.py:function")
    try:
        with _importable(Path(source).resolve().parent if source.endswith(".py") else Path.cwd()):
            function = getattr(_import(source), function_name)
            spec = function() if checkpoint is None else function(checkpoint)
    except ExportError:
        raise
    except Exception as exc:  # a user's code may raise anything
        raise ExportError(f"--spec {place}: {type(exc).__name__}: {exc}") from exc
    if not isinstance(spec, ExportSpec):
        raise ExportError(f"--spec {place} returned a {type(spec).__name__}, expected an ExportSpec")
    return spec


def _import(source: str) -> object:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source).resolve()
    if not path.is_file():
        raise ExportError(f"{source} does not exist")
    name = f"_posewarp_spec_{path.stem}"  # a user's torch.py must not become torch
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
