"""Plugin libraries: where they are found, and the CPU library's function for numpy arrays.

A plugin library is code that runs inside this process, so it is only ever taken from where the user put it: a
path given, POSEWARP_PLUGIN_PATH, or this package's own folder; never from a path that a model or side-car names.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import numpy as np

from posewarp.runtime.errors import ContractError, PluginError, PosewarpWarning
from posewarp.runtime.files import sha256 as sha256_of
from posewarp.runtime.threads import available_cpus

ENVIRONMENT = "POSEWARP_PLUGIN_PATH"
SIMD_ENVIRONMENT, SIMD_WORDS = "POSEWARP_CPU_SIMD", ("avx2", "portable")
FOLDER = Path(__file__).parent / "lib"
FILES = {"cpu": "libposewarp_cpu.so", "tensorrt": "libposewarp_plugins.so"}

_MODES = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
_DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
_BAD_ARGUMENT = 3
_BUILD = "`make plugins` builds it"
_EITHER = " or ".join(FILES.values())
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


Place = str | os.PathLike[str] | PluginLibrary


def find(name: str, path: Place | None = None) -> Path | None:
    """Where a plugin library is.

    Args:
        name: ``cpu`` (the sampling core and ONNX Runtime's operator) or ``tensorrt`` (the TensorRT plugin).
        path: the library, or a folder that holds it. Without it POSEWARP_PLUGIN_PATH is searched, which names
            libraries, under the names that ``make plugins`` gives them, and folders, separated as in PATH; then
            this package's folder ``lib``, where ``make plugins`` puts what it builds.

    Returns: the file, symbolic links followed; None if no path was given and it is in none of these places.
    Raises: PluginError if what was named is not there, or is no library for this machine.
    """
    if name not in FILES:
        raise PluginError(
            f"there is no plugin library {name!r}, expected one of {', '.join(FILES)}", got=name
        )
    if isinstance(path, PluginLibrary):
        path = path.path
    if path is not None:
        if not os.fspath(path):
            raise PluginError(
                "the path of a plugin library is empty; leave it out to have the library looked for"
            )
        return _checked(Path(path) / FILES[name] if os.path.isdir(path) else Path(path))
    for place in map(Path, filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))):
        if not os.path.exists(place):
            raise PluginError(f"{ENVIRONMENT} names {place}, which does not exist")
        if os.path.isdir(place):
            held = [file for file in FILES.values() if os.path.lexists(place / file)]
            if not held:
                raise PluginError(f"{ENVIRONMENT} names the folder {place}, which holds no {_EITHER}")
            if FILES[name] in held:
                return _checked(place / FILES[name])
        elif place.name == FILES[name]:
            return _checked(place)
        elif place.name not in FILES.values():
            raise PluginError(f"{ENVIRONMENT} names the file {place}, whose name must be {_EITHER}")
    file = FOLDER / FILES[name]
    return _checked(file) if file.exists() else None


def named(name: str, plugins: Place | Sequence[Place]) -> list[Path]:
    """The libraries that a session's ``plugins=`` names, one or several: each file once.

    Raises: see ``find``.
    """
    places = [plugins] if isinstance(plugins, str | os.PathLike | PluginLibrary) else plugins
    return list(dict.fromkeys(path for each in places if (path := find(name, each))))


def load(path: Place | None = None, *, sha256: str | None = None) -> PluginLibrary:
    """Load the CPU library into this process, or give the one that was loaded from the same file before.

    Args:
        path: see ``find``.
        sha256: what the file must have, where it is known; compared before any of its code runs.

    A PosewarpWarning, once, if POSEWARP_CPU_SIMD has a word that the library does not know and passes over.

    Raises: PluginError if it is not there, cannot be loaded, has another hash, or is another version's.
    """
    _check_simd(os.environ.get(SIMD_ENVIRONMENT, ""))
    found = find("cpu", path)
    if found is None:
        raise PluginError(f"{FILES['cpu']} is not there; {_BUILD}", expected=FILES["cpu"])
    if sha256 is None:
        return _load(found)[0]
    _check_hash(found, sha256_of(found), sha256)
    library = _load(found)[0]
    _check_hash(found, library.sha256, sha256)  # it may have been loaded before the file was replaced
    return library


@cache
def _check_simd(word: str) -> None:
    if word and word not in SIMD_WORDS:
        message = f"{SIMD_ENVIRONMENT}={word} has no effect; the words are {', '.join(SIMD_WORDS)}"
        warnings.warn(message, PosewarpWarning, stacklevel=3)


def _check_hash(path: Path, got: str, expected: str) -> None:
    expected = expected.strip().lower().removeprefix("sha256:")
    if got != expected:
        raise PluginError(
            f"{path} has the hash {got[:12]}..., expected {expected[:12]}...; it is another build",
            got=got,
            expected=expected,
        )


def simd(library: Place | None = None) -> str:
    """The instructions that the CPU library uses here: ``avx2``, ``portable`` ...

    Raises: PluginError if the library cannot be used.
    """
    return _opened(library)[1].posewarp_cpu_simd().decode()


def _opened(library: Place | None) -> tuple[PluginLibrary, ctypes.CDLL]:
    return _load((library if isinstance(library, PluginLibrary) else load(library)).path)


@cache
def _load(path: Path) -> tuple[PluginLibrary, ctypes.CDLL]:
    digest = sha256_of(path)
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    try:
        handle = ctypes.CDLL(str(path))
        handle.posewarp_cpu_version.restype = ctypes.c_char_p
        # Before anything else is looked up: another version may have other functions.
        version = _check_version(path, handle.posewarp_cpu_version())
        handle.posewarp_cpu_simd.restype = ctypes.c_char_p
        handle.posewarp_grid_sample.argtypes = (
            *(pointer, number, pointer, pointer, number),  # features, dtype, grid, output, rank
            *[size] * 8,  # batch, channels, depth, height, width, out_depth, out_height, out_width
            *[number] * 4,  # mode, padding, align_corners, threads
        )
    except (OSError, AttributeError) as exc:
        raise PluginError(f"{path} cannot be loaded as {FILES['cpu']}: {exc}; {_BUILD}") from exc
    return PluginLibrary(path, "posewarp_cpu", version, digest), handle


def _check_version(path: Path, said: bytes | None) -> str:
    version = "unknown" if said is None else said.decode(errors="replace")
    expected = metadata.version("posewarp")
    if version != expected:
        raise PluginError(
            f"{path} is of version {version}, this posewarp is {expected}; {_BUILD}",
            got=version,
            expected=expected,
        )
    return version


def _checked(path: Path) -> Path:
    """The file itself, if it is a whole shared library for this machine: the loader crashes on half a one."""
    real = Path(os.path.realpath(path))
    try:
        if not stat.S_ISREG(os.stat(real).st_mode):  # a pipe would be waited for
            raise PluginError(f"the plugin library {path} is no regular file; {_BUILD}")
        with open(real, "rb") as file:
            header = file.read(64)
            size = os.fstat(file.fileno()).st_size
            whole = len(header) == 64 and _is_whole(file, header)
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
    if not whole:
        raise PluginError(f"{path} is cut short: {size} bytes, or zeros at its end; {_BUILD}", got=size)
    return real


def _is_whole(file: BinaryIO, header: bytes) -> bool:
    """Whether an ELF file has the table of sections and the sections' names, which linkers write last."""
    (table,) = struct.unpack_from("<Q", header, 40)
    entry_size, entries, names = struct.unpack_from("<HHH", header, 58)
    if not table or entry_size != 64 or names >= entries:
        return False
    sections = _read(file, table, 64 * entries)
    if len(sections) < 64 * entries:
        return False
    # The first is all zeros by ELF's rule, the others never are.
    if not all(any(sections[i : i + 64]) for i in range(64, len(sections), 64)):
        return False
    start, size = struct.unpack_from("<QQ", sections, 64 * names + 24)
    text = _read(file, start, size)
    return len(text) == size and any(text)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    """What a file has there; less where it ends before, whatever a broken header asks for."""
    end = os.fstat(file.fileno()).st_size
    if offset >= end:
        return b""
    file.seek(offset)
    return file.read(min(size, end - offset))


def grid_sample(
    features: np.ndarray,
    grid: np.ndarray,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    *,
    threads: int | None = None,
    out: np.ndarray | None = None,
    library: Place | None = None,
) -> np.ndarray:
    """Sample features at the positions of a grid, as PyTorch's grid_sample does, in the CPU library.

    Args:
        features: (N, C, [D,] H, W), float32, float16 or ml_dtypes' bfloat16.
        grid: (N, [Do,] Ho, Wo, 2|3), float32, normalised to -1..1, x first.
        mode: ``bilinear``, ``nearest`` or, in 4-D, ``bicubic``.
        padding_mode: ``zeros``, ``border`` or ``reflection``.
        align_corners: whether -1 and 1 are the centres of the outer pixels, not their outer edges.
        threads: by default as many as the process may use.
        out: where the result goes, apart from features and grid; by default a new array.
        library: as ``load`` gave it, or a path; by default it is looked for again.

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
    if not isinstance(align_corners, int | np.integer | np.bool_) or align_corners not in (0, 1):
        raise ContractError(f"align_corners is {align_corners!r}, expected True or False", got=align_corners)
    if threads is not None and (not isinstance(threads, int | np.integer) or threads < 1):
        raise ContractError(f"threads is {threads!r}, expected an int of at least 1", got=threads)
    shape = (*features.shape[:2], *grid.shape[1:-1])
    output = np.empty(shape, features.dtype) if out is None else out
    if not isinstance(output, np.ndarray):
        raise ContractError(f"out is a {type(output).__name__}, expected a numpy array")
    if output.shape != shape or output.dtype != features.dtype or not output.flags.carray:
        raise ContractError(
            f"out is {output.dtype} of shape {output.shape}, expected {features.dtype} of {shape}, contiguous "
            "and writeable"
        )
    if np.may_share_memory(output, features) or np.may_share_memory(output, grid):
        raise ContractError("out overlaps the features or the grid in memory; give an array of its own")
    loaded, handle = _opened(library)
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
        raise PluginError(f"{loaded.path} failed with error {error} (see posewarp_cpu.h)", got=error)
    return output
