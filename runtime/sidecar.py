"""The side-car of an engine, ``model.engine.json``: what is known of the plan that lies beside it.

A plan is opaque: it does not say which ONNX file it came from, which type its layers have, or what was proven
of it. The side-car does, and holds the plan's hash, so that it cannot speak of another plan unnoticed. It names
plugin libraries by name, version and hash, never by a path: a file of data must not make a program load code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from posewarp.runtime.errors import EngineError
from posewarp.runtime.files import atomic_write, sha256

FORMAT = 1
NOT_EXECUTED = "not executed"

# A plan's first four bytes end in "trt". Two kinds are known: both hold the version in bytes 24 to 27, the second
# its length before it. Whether version-compatible plans are of another kind is not known.
_PLAIN, _PORTABLE = b"ftrt", b"vtrt"
_KINDS = {_PLAIN: "tensorrt", _PORTABLE: "portable"}
_HEADER = 28
# What an engine of TensorRT-RTX without named targets runs on, and all that is later.
_RTX_DEFAULT = ("8.0", "8.6", "8.9", "12.0")

# What each entry of a side-car is in JSON, and what the objects of its lists hold at least.
_KINDS_OF_ENTRIES = {
    "an object": ("plan", "onnx", "versions", "device", "precision", "contract", "options"),
    "a list": (
        *("targets", "inputs", "outputs", "profiles", "grid_samples", "plugins", "parity", "unknown"),
    ),
    "a text": ("origin", "backend"),
    "true or false": ("tf32",),
}
_JSON = {"an object": dict, "a list": list, "a text": str, "true or false": bool}
_MAY_BE_NULL = ("device", "contract", "tf32")
_HELD = {
    "inputs": ("name", "dtype", "shape"),
    "outputs": ("name", "dtype", "shape"),
    "profiles": (),
    "grid_samples": (),
    "plugins": ("name", "version", "sha256"),
    "parity": ("reference", "model", "status"),
}


@dataclass(frozen=True)
class PlanHeader:
    """What the first bytes of a plan say.

    Attributes:
        kind: ``tensorrt``, ``portable`` (TensorRT-RTX), or ``other``.
        version: of the library that built it, ``major.minor.patch.build``; None for ``other``.
    """

    kind: str
    version: str | None


@dataclass(frozen=True)
class Sidecar:
    """What is known of an engine. All plain JSON; None and "unknown" are said, never guessed.

    Attributes:
        origin: ``built`` by posewarp, or ``adopted``: another program built it, and posewarp was told from what.
        plan: ``sha256`` and ``bytes`` of the plan.
        onnx: ``name``, without folder, and ``sha256``, external data included.
        backend: ``rtx``, ``tensorrt`` or ``mnn``.
        versions: of the libraries that took part, by name.
        device: ``name`` and ``compute_capability`` of the GPU that it was built on; None for ``targets``.
        targets: compute capabilities that it was built for.
        inputs, outputs: ``name``, ``dtype`` and ``shape`` (-1 is dynamic) of each.
        precision: ``asserted``, and ``half`` and ``all`` as counts of the Conv, ConvTranspose, Gemm and MatMul
            layers of floating point.
        tf32: whether FP32 layers may round to TF32.
        profiles: for each profile, by input: ``min``, ``opt`` and ``max`` shape.
        grid_samples: name, mode, padding_mode and align_corners of each native GridSample layer.
        contract: as in the ONNX file's metadata, if it has one.
        plugins: ``name``, ``version`` and ``sha256`` of each plugin library that it needs.
        options: of the build.
        parity: rungs of the ladder, each with ``status``.
        unknown: names of the attributes that an adopted engine leaves open.
    """

    origin: str
    plan: Mapping[str, Any]
    onnx: Mapping[str, Any]
    backend: str
    versions: Mapping[str, str]
    device: Mapping[str, str] | None = None
    targets: Sequence[str] = ()
    inputs: Sequence[Mapping[str, Any]] = ()
    outputs: Sequence[Mapping[str, Any]] = ()
    precision: Mapping[str, Any] = field(default_factory=dict)
    tf32: bool | None = None
    profiles: Sequence[Mapping[str, Any]] = ()
    grid_samples: Sequence[Mapping[str, Any]] = ()
    contract: Mapping[str, Any] | None = None
    plugins: Sequence[Mapping[str, str]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    parity: Sequence[Mapping[str, Any]] = ()
    unknown: Sequence[str] = ()

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @property
    def proven(self) -> bool:
        """Whether every rung of parity was executed and held."""
        return bool(self.parity) and all(rung.get("status") == "passed" for rung in self.parity)


def path_of(engine: str | os.PathLike[str]) -> Path:
    """``model.engine.json`` for ``model.engine``."""
    return Path(f"{os.fspath(engine)}.json")


def read(engine: str | os.PathLike[str]) -> Sidecar | None:
    """Read an engine's side-car. It is not compared with the engine: see ``check``.

    Returns: None if there is none.
    Raises: EngineError if there is one that cannot be used.
    """
    path = path_of(engine)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        fault = _fault(data)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise EngineError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError):
        fault = "it holds no JSON"
    if fault:
        raise EngineError(
            f"{path} is not a side-car of an engine: {fault}; write it again: posewarp build, or delete it and "
            "posewarp adopt"
        )
    if data.pop("format") != FORMAT:
        raise EngineError(f"{path} is of another format; write it again: posewarp build, or posewarp adopt")
    return Sidecar(**data)


def _fault(data: Any) -> str | None:
    """What is wrong with the JSON of a side-car, in words; None if nothing is."""
    if not isinstance(data, dict):
        return f"it holds {_kind(data)}, expected an object"
    if "format" not in data:
        return "its entry format is missing"
    if data["format"] != FORMAT:
        return None  # what another format holds is not known
    known = {entry.name: entry for entry in fields(Sidecar)}
    if unknown := data.keys() - known.keys() - {"format"}:
        return f"it has the unknown entry {min(unknown)}"
    for name, entry in known.items():
        if name not in data and entry.default is MISSING and entry.default_factory is MISSING:
            return f"its entry {name} is missing"
    for expected, names in _KINDS_OF_ENTRIES.items():
        for name in names:
            value = data.get(name)
            null = value is None and (name not in data or name in _MAY_BE_NULL)
            if not null and not isinstance(value, _JSON[expected]):
                return f"its entry {name} is {_kind(value)}, expected {expected}"
    for name, keys in _HELD.items():
        for value in data.get(name, ()):
            if not isinstance(value, dict) or not value.keys() >= set(keys):
                return f"its entry {name} holds {_kind(value)}, expected objects with {', '.join(keys) or 'names'}"
    for name, key, kind in (
        *(("plan", "sha256", str), ("plan", "bytes", int), ("onnx", "name", str), ("onnx", "sha256", str)),
        *((("device", "compute_capability", str),) if data.get("device") is not None else ()),
    ):
        if not isinstance(data[name].get(key), kind):
            return f"its entry {name} has no {key}"
    return None


def _kind(value: Any) -> str:
    """What a value is in JSON."""
    if value is None:
        return "null"
    return next((word for word, kind in _JSON.items() if isinstance(value, kind)), "a number")


def write(engine: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Write an engine's side-car, whole or not at all.

    Raises: EngineError if it cannot be written.
    """
    with atomic_write(path_of(engine), EngineError) as temporary:
        temporary.write_text(sidecar.to_json(), encoding="utf-8")


def record_parity(engine: str | os.PathLike[str], rung: Mapping[str, Any]) -> None:
    """Put a rung of parity into an engine's side-car, in place of the one between the same two models.

    Args:
        engine: whose side-car must be there and speak of it.
        rung: ``reference`` and ``model`` (file names), ``status`` (``passed``, ``failed`` or ``not executed``),
            and what was measured.

    Raises: EngineError if the side-car is missing, not this engine's, or cannot be written.
    """
    sidecar = check(engine, needed=True)
    kept = [r for r in sidecar.parity if (r["reference"], r["model"]) != (rung["reference"], rung["model"])]
    values = {entry.name: getattr(sidecar, entry.name) for entry in fields(Sidecar)}
    write(engine, Sidecar(**{**values, "parity": [*kept, dict(rung)]}))


def read_header(engine: str | os.PathLike[str]) -> PlanHeader:
    """What a plan says of itself, without any library.

    Raises: EngineError if the file is missing, empty, cut short or no plan.
    """
    path = Path(engine)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEADER)
            size = os.fstat(file.fileno()).st_size
    except OSError as exc:
        raise EngineError(f"the engine {path} cannot be read: {exc.strerror}") from exc
    if not head:
        raise EngineError(
            f"{path} is empty: its build was cut off; build it again: posewarp build model.onnx"
        )
    kind = head[:4]
    if kind[1:] != b"trt":
        hint = "; it begins as the files of Ultralytics do, with JSON before the plan" * (head[4:5] == b"{")
        raise EngineError(
            f"{path} is not a TensorRT engine{hint}; build one: posewarp build model.onnx",
            got=kind,
            expected=(_PLAIN, _PORTABLE),
        )
    length = int.from_bytes(head[16:24], "little") if kind == _PORTABLE else 0
    if len(head) < _HEADER or size < length:
        raise EngineError(
            f"{path} is cut short: {size} bytes, expected {max(length, _HEADER)}; copy it again, or build it "
            "again: posewarp build model.onnx",
            got=size,
            expected=length,
        )
    version = ".".join(map(str, head[24:28])) if kind in _KINDS else None
    return PlanHeader(_KINDS.get(kind, "other"), version)


def check(
    engine: str | os.PathLike[str],
    *,
    needed: bool = False,
    version: str | None = None,
    compute_capability: str | None = None,
) -> Sidecar | None:
    """Check an engine file, and that its side-car speaks of it, before any library opens it.

    Args:
        engine: the plan.
        needed: whether an engine without side-car is an error. One built by trtexec has none.
        version: of the library that would run it, if it shall be compared.
        compute_capability: of the GPU that would run it, such as ``8.6``, if it shall be compared.

    Returns: the side-car, None if there is none.
    Raises: EngineError, one line: what was got, what was expected, what to do.
    """
    header = read_header(engine)
    sidecar = read(engine)
    if sidecar is None:
        if needed:
            raise EngineError(
                f"{engine} has no side-car {path_of(engine).name}; write one: "
                f"posewarp adopt {engine} --onnx model.onnx"
            )
        _check_version(engine, header.version, version, compatible=False, onnx="model.onnx")
        return None
    check_content(engine, sidecar)
    compatible = bool(sidecar.options.get("version_compatible"))
    _check_version(engine, header.version, version, compatible, sidecar.onnx["name"])
    _check_capability(engine, sidecar, compute_capability)
    return sidecar


def check_content(engine: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Check that a side-car speaks of this file: its length and hash.

    Raises: EngineError if it is cut short, or another file's.
    """
    command = f"posewarp build {sidecar.onnx['name']}" + " --backend mnn" * (sidecar.backend == "mnn")
    size = os.path.getsize(engine)
    if size != sidecar.plan["bytes"]:
        raise EngineError(
            f"{engine} has {size} bytes, its side-car speaks of {sidecar.plan['bytes']}: it is cut short, or "
            f"another engine's side-car lies beside it; build it again: {command}",
            got=size,
            expected=sidecar.plan["bytes"],
        )
    digest = sha256(engine)
    if digest != sidecar.plan["sha256"]:
        raise EngineError(
            f"{path_of(engine)} is the side-car of another engine: {engine} has the hash {digest[:12]}..., "
            f"it speaks of {sidecar.plan['sha256'][:12]}...; build it again: {command}",
            got=digest,
            expected=sidecar.plan["sha256"],
        )


def _check_version(
    engine: object, built: str | None, running: str | None, compatible: bool, onnx: str
) -> None:
    if running is None or built is None or _numbers(built) == _numbers(running):
        return
    if compatible and _numbers(built) < _numbers(running):
        return
    raise EngineError(
        f"{engine} was built with TensorRT {built}, this machine has {running}. "
        f"Rebuild it here: posewarp build {onnx}",
        got=built,
        expected=running,
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Major, minor, patch: builds of one patch read each other's plans."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())


def _check_capability(engine: object, sidecar: Sidecar, running: str | None) -> None:
    built = sidecar.device["compute_capability"] if sidecar.device else None
    level = sidecar.options.get("hardware_compatibility")
    if running is None or (sidecar.backend == "tensorrt" and built is None):
        return
    here = tuple(map(int, running.split(".")))
    if sidecar.backend == "rtx":
        # "current" is the GPU that it was built on.
        targets = (
            tuple(built or each if each == "current" else each for each in sidecar.targets) or _RTX_DEFAULT
        )
        fits = running in targets or (not sidecar.targets and here >= (12, 0))
        built = " and ".join(targets)
    else:
        fits = running == built or (level == "ampere+" and here >= (8, 0))
    if not fits:
        raise EngineError(
            f"{engine} was built for compute capability {built}; this machine has {running}. "
            f"Rebuild it here: posewarp build {sidecar.onnx['name']}",
            got=running,
            expected=built,
        )
