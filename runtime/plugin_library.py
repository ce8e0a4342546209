"""Plugin libraries: where they are found, and the CPU library's function for numpy arrays.

A plugin library is code that runs inside this process, so it is only ever taken from where the user put it: a
path given, POSEWARP_PLUGIN_PATH, or this package's own folder; never from a path that a model or side-car names.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np

from posewarp.runtime.errors import ContractError, PluginError
from posewarp.runtime.files import sha256 as sha256_of
from posewarp.runtime.threads import available_cpus

ENVIRONMENT = "POSEWARP_PLUGIN_PATH"
FOLDER = Path(__file__).parent / "lib"
FILES = {"cpu": "libposewarp_cpu.so", "tensorrt": "libposewarp_plugins.so"}

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
_BAD_ARGUMENT = 3
_BUILD = "`make plugins` builds it"
_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64"}  # e_machine of an ELF file


@dataclass(frozen=True)
class PluginLibrary:
    """A library that was loaded into this process.

    Attributes:
        path: the file, symbolic links followed.
        name: ``posewarp_cpu``.
        version: what the library says of itself.
        sha256: of the file.
    """

    path: Path
    name: str
    version: str
    sha256: str


def find(name: str, path: str | os.PathLike[str] | None = None) -> Path | None:
    """Where a plugin library is.

    Args:
        name: ``cpu`` (the sampling core and ONNX Runtime's operator) or ``tensorrt`` (the TensorRT plugin).
        path: the library, or a folder that holds it. Without it POSEWARP_PLUGIN_PATH is searched, which names
            libraries and folders, separated as in PATH; then this package's folder ``lib``, where
            ``make plugins`` puts what it builds.

    Returns: the file, symbolic links followed; None if no path was given and it is in none of these places.
    Raises: PluginError if what was named is not there, or is no library for this machine.
    """
    if path is not None:
        return _checked(Path(path) / FILES[name] if Path(path).is_dir() else Path(path))
    for place in map(Path, filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))):
        if place.is_dir():
            if (place / FILES[name]).exists():
                return _checked(place / FILES[name])
        elif place.name == FILES[name]:
            return _checked(place)
        elif place.name not in FILES.values():
            raise PluginError(
                f"{ENVIRONMENT} names {place}, which is neither a folder nor one of {', '.join(FILES.values())}"
            )
    file = FOLDER / FILES[name]
    return _checked(file) if file.exists() else None


def load(path: str | os.PathLike[str] | None = None, *, sha256: str | None = None) -> PluginLibrary:
    """Load the CPU library into this process, or give the one that was loaded from the same file before.

    Args:
        path: see ``find``.
        sha256: what the file must have, where it is known.

    Raises: PluginError if it is not there, cannot be loaded, has another hash, or is another version's.
    """
    found = find("cpu", path)
    if found is None:
        raise PluginError(f"{FILES['cpu']} is not there; {_BUILD}", expected=FILES["cpu"])
    library = _load(found)[0]
    if sha256 is not None and library.sha256 != sha256:
        raise PluginError(
            f"{found} has the hash {library.sha256[:12]}..., expected {sha256[:12]}...; it is another build",
            got=library.sha256,
            expected=sha256,
        )
    return library


def simd(library: PluginLibrary | None = None) -> str:
    """The instructions that the CPU library uses here: ``avx2``, ``portable`` ...

    Raises: PluginError if the library cannot be used.
    """
    return _load((library or load()).path)[1].posewarp_cpu_simd().decode()


@cache
def _load(path: Path) -> tuple[PluginLibrary, ctypes.CDLL]:
    digest = sha256_of(path)
    try:
        handle = ctypes.CDLL(str(path))
        say_version = handle.posewarp_cpu_version
    except (OSError, AttributeError) as exc:
        raise PluginError(f"{path} cannot be loaded as {FILES['cpu']}: {exc}; {_BUILD}") from exc
    say_version.restype = handle.posewarp_cpu_simd.restype = ctypes.c_char_p
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    handle.posewarp_grid_sample.argtypes = (
        *(pointer, number, pointer, pointer, number),  # features, dtype, grid, output, rank
        *[size] * 8,  # batch, channels, depth, height, width, out_depth, out_height, out_width
        *[number] * 4,  # mode, padding, align_corners, threads
    )
    version, expected = say_version().decode(), metadata.version("posewarp")
    if version != expected:
        raise PluginError(
            f"{path} is of version {version}, this posewarp is {expected}; {_BUILD}",
            got=version,
            expected=expected,
        )
    return PluginLibrary(path, "posewarp_cpu", version, digest), handle


def _checked(path: Path) -> Path:
    """The file itself, if it is a whole shared library for this machine: the loader crashes on half a one."""
    real = Path(os.path.realpath(path))
    try:
        with open(real, "rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
    except OSError as exc:
        raise PluginError(f"the plugin library {path} cannot be read: {exc.strerror}; {_BUILD}") from exc
    if not header.startswith(b"\x7fELF\x02") or len(header) < 64:
        raise PluginError(f"{path} is not a shared library of 64-bit Linux; {_BUILD}")
    (machine,) = struct.unpack_from("<H", header, 18)
    built_for = _MACHINES.get(machine, f"machine {machine}")
    if built_for != platform.machine():
        raise PluginError(
            f"{path} was built for {built_for}, this machine is {platform.machine()}; {_BUILD}",
            got=built_for,
            expected=platform.machine(),
        )
    # The table of sections is what a linker writes last.
    (sections,) = struct.unpack_from("<Q", header, 40)
    entry_size, entries = struct.unpack_from("<HH", header, 58)
    if size < sections + entry_size * entries:
        raise PluginError(f"{path} is cut short: {size} bytes; {_BUILD}", got=size)
    return real


def grid_sample(
    features: np.ndarray,
    grid: np.ndarray,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    threads: int | None = None,
    out: np.ndarray | None = None,
    library: PluginLibrary | None = None,
) -> np.ndarray:
    """Sample features at the positions of a grid, as PyTorch's grid_sample does, in the CPU library.

    Args:
        features: (N, C, [D,] H, W), float32, float16 or ml_dtypes' bfloat16.
        grid: (N, [Do,] Ho, Wo, 2|3), float32, normalised to -1..1, x first.
        mode: ``bilinear``, ``nearest`` or, in 4-D, ``bicubic``.
        padding_mode: ``zeros``, ``border`` or ``reflection``.
        align_corners: whether -1 and 1 are the centres of the outer pixels, not their outer edges.
        threads: by default as many as the process may use.
        out: where the result goes; by default a new array.
        library: as ``load`` gave it; by default it is looked for again.

    Returns: (N, C, [Do,] Ho, Wo), dtype of ``features``; position, weights and sum are fp32 for every dtype.
    Raises: ContractError if shapes, dtypes or words are others; PluginError if the library cannot be used.
    """
    features, grid = np.ascontiguousarray(features), np.ascontiguousarray(grid)
    rank = features.ndim - 2
    if (
        rank not in (2, 3)
        or grid.ndim != features.ndim
        or grid.shape[-1] != rank
        or len(grid) != len(features)
    ):
        raise ContractError(
            f"features have shape {features.shape} and the grid {grid.shape}, expected (N, C, H, W) and "
            "(N, Ho, Wo, 2), or (N, C, D, H, W) and (N, Do, Ho, Wo, 3)"
        )
    if features.dtype.name not in _DTYPES or not features.dtype.isnative or grid.dtype != np.float32:
        raise ContractError(
            f"features are {features.dtype} and the grid {grid.dtype}, expected one of {', '.join(_DTYPES)} "
            "and float32"
        )
    if mode not in _MODES or padding_mode not in _PADDINGS:
        raise ContractError(
            f"mode {mode!r} with padding_mode {padding_mode!r}, expected one of {', '.join(_MODES)} with one of "
            f"{', '.join(_PADDINGS)}"
        )
    library, handle = _load((library or load()).path)
    shape = (*features.shape[:2], *grid.shape[1:-1])
    output = np.empty(shape, features.dtype) if out is None else out
    if output.shape != shape or output.dtype != features.dtype or not output.flags.carray:
        raise ContractError(
            f"out is {output.dtype} of shape {output.shape}, expected {features.dtype} of {shape}, contiguous "
            "and writeable"
        )
    depth, out_depth = (1, 1) if rank == 2 else (features.shape[2], grid.shape[1])
    sizes = (*features.shape[:2], depth, *features.shape[-2:], out_depth, *grid.shape[-3:-1])
    error = handle.posewarp_grid_sample(
        features.ctypes.data,
        _DTYPES[features.dtype.name],
        grid.ctypes.data,
        output.ctypes.data,
        rank,
        *sizes,
        _MODES.index(mode),
        _PADDINGS.index(padding_mode),
        int(align_corners),
        threads or available_cpus(),
    )
    if error == _BAD_ARGUMENT:
        raise ContractError(
            f"features of shape {features.shape} cannot be sampled to {output.shape} with mode {mode!r}: bicubic takes "
            "4-D features, and features without pixels give an empty output only"
        )
    if error:
        raise PluginError(f"{library.path} failed with error {error} (see posewarp_cpu.h)", got=error)
    return output
