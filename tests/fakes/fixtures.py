"""A fake GPU behind both providers of the device layer, and sessions of fake plans on it."""

from __future__ import annotations

import platform
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes import cuda_python, pycuda, tensorrt
from fakes.gpu import FakeGpu
from posewarp.runtime import EngineOptions, Session, sidecar
from posewarp.runtime.files import sha256
from posewarp.runtime.sidecar import Sidecar

PROVIDERS = ("cuda-python", "pycuda")
EDITIONS = ("tensorrt", "tensorrt_rtx", "tensorrt_lean")


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """At the end of the test nothing may be broken, and nothing left."""
    fake = FakeGpu()
    yield fake
    fake.check()


@pytest.fixture(params=PROVIDERS)
def provider(request, gpu, monkeypatch) -> Iterator[str]:
    """Both ways to call the driver; with pycuda this thread has a context, as in a pipeline of pycuda's."""
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", cuda_python.FakeCudaPython(gpu))
    fake = pycuda.FakePycuda(gpu)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    if request.param == "pycuda":
        fake.Context().push()
    yield request.param
    if request.param == "pycuda":
        fake.Context.pop()


@pytest.fixture
def edition(request, gpu, monkeypatch) -> str:
    """TensorRT; by ``parametrize(..., indirect=True)`` another edition."""
    name = getattr(request, "param", "tensorrt")
    for each in (*EDITIONS, *(f"{each}_bindings" for each in EDITIONS)):
        monkeypatch.setitem(sys.modules, each, None)  # not installed
    monkeypatch.setitem(sys.modules, name, tensorrt.make_module(gpu, name))
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", "")
    monkeypatch.setattr("posewarp.runtime.plugin_library.FOLDER", Path("/nowhere"))
    return name


@pytest.fixture
def plugin_file(tmp_path) -> Path:
    """A file that passes for a library of this machine."""
    path = tmp_path / "libposewarp_plugins.so"
    head = bytearray(64)
    head[:5] = b"\x7fELF\x02"
    machine = {"x86_64": 0x3E, "aarch64": 0xB7}[platform.machine()]
    struct.pack_into("<H", head, 18, machine)
    # Two sections from byte 64 on: the empty one, and the names, which lie behind.
    struct.pack_into("<Q", head, 40, 64)
    struct.pack_into("<HHH", head, 58, 64, 2, 1)
    names = b"\0.shstrtab\0"
    section = struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 192, len(names), 0, 0, 1, 0)
    path.write_bytes(head + bytes(64) + section + names)
    return path


@pytest.fixture
def open_plan(tmp_path, provider, edition) -> Callable[..., Session]:
    """``open_plan(options={}, side_car=None, **content)``: a session of a plan with that content.

    ``side_car`` are entries of its side-car; None: there is none.
    """

    def open_one(*, options=None, side_car=None, version=None, contract=None, plugins=None, **content):
        plan = tensorrt.make_plan(tmp_path / "model.engine", edition, version=version, **content)
        sidecar.path_of(plan).unlink(missing_ok=True)
        if side_car is not None:
            write_side_car(plan, edition, **side_car)
        engine = EngineOptions(provider=provider, **(options or {}))
        return Session.open(plan, engine=engine, contract=contract, plugins=plugins)

    return open_one


def write_side_car(plan: Path, edition: str, **entries) -> None:
    known = {
        "origin": "built",
        "plan": {"sha256": sha256(plan), "bytes": plan.stat().st_size},
        "onnx": {"name": "model.onnx", "sha256": "0" * 64},
        "backend": "rtx" if edition == "tensorrt_rtx" else "tensorrt",
        "versions": {},
        "device": {"name": "Fake GPU", "compute_capability": "8.6"},
    }
    sidecar.write(plan, Sidecar(**{**known, **entries}))
