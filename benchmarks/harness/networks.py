"""The networks to measure, from what a user names: each with its ONNX file, and whatever else there is of it.

Files whose names are equal up to the first dot are one network, as posewarp names them: demo.safetensors, demo.onnx,
demo.fp16.onnx, demo.cpu.onnx, demo.engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from posewarp.export.graphs.graph import load_model
from posewarp.export.ladder.rungs import is_engine, is_torch
from posewarp.export.ladder.sample_data import read_contract
from posewarp.export.precision.emulation import half_type
from posewarp.export.spec import load_spec
from posewarp.export.to_cpu import SUFFIX as CPU_SUFFIX
from posewarp.export.to_cpu import to_cpu
from posewarp.export.to_mnn import to_mnn
from posewarp.export.to_onnx import to_onnx
from posewarp.runtime import plugin_library
from posewarp.runtime.contract import Contract
from posewarp.runtime.errors import DataError, ExportError, PosewarpError
from posewarp.runtime.files import sha256

MADE = ("demo", "deepfashion", "deepfashion-512x352")


@dataclass(frozen=True)
class Derived:
    """A file that is made of the FP32 ONNX file, given or made here.

    Attributes:
        path: None where ``missing`` or ``error`` says why there is none.
        missing: what this machine or network lacks for it.
        error: what went wrong where it should have been made.
    """

    path: Path | None
    missing: str | None = None
    error: PosewarpError | None = None


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: its files' common name.
        onnx: the FP32 file, which is the reference where there is no torch module.
        contract: what it takes and gives.
        sha256: of the file that was given, the checkpoint before what is exported from it.
        torch: a checkpoint of ours, or ``file.py:function`` for an ExportSpec; None if there is neither.
        cpu: the file of ``posewarp build --backend cpu``.
        mnn: the file for MNN.
        others: further files of it: in FP16, and engines.
    """

    name: str
    onnx: Path
    contract: Contract
    sha256: str
    torch: str | None
    cpu: Derived
    mnn: Derived
    others: tuple[Path, ...] = ()


def find_networks(files: Sequence[str], folder: Path, data: str | None = None) -> list[Network]:
    """Group the files, and export what has no ONNX file yet.

    Args:
        files: names of ``MADE`` (deepfashion has random weights), checkpoints, ``file.py:function``, ONNX files,
            engines, models of other runtimes.
        folder: for what is made here.
        data: inputs to prove the files for CPUs with (see sample_data.py).

    Raises: DataError if a file does not exist, or an engine comes without its ONNX file; ExportError and
        CheckpointError of the export.
    """
    groups: dict[str, list[str]] = {}
    for file in files:
        path = file.rpartition(":")[0] if ".py:" in file else file
        if file not in MADE and not Path(path).is_file():
            raise DataError(f"{path} does not exist; expected a file, or one of {', '.join(MADE)}")
        name = file.rpartition(":")[2] if ".py:" in file else Path(file).name.partition(".")[0]
        groups.setdefault(name, []).append(_checkpoint(file, folder) if file in MADE else file)
    return [_network(name, group, folder, data) for name, group in groups.items()]


def _network(name: str, files: Sequence[str], folder: Path, data: str | None) -> Network:
    torch = next((file for file in files if is_torch(file)), None)
    cpu, mnn = (_given(files, suffix) for suffix in (CPU_SUFFIX, ".mnn"))
    graphs = [Path(file) for file in files if Path(file).suffix == ".onnx" and Path(file) != cpu]
    whole = [path for path in graphs if half_type(load_model(path)) == "fp32"]
    others = tuple(Path(file) for file in files if file != torch and Path(file) not in (*whole, cpu, mnn))
    if len(whole) > 1:
        raise DataError(f"{whole[0]} and {whole[1]} would both be the FP32 file of {name}; rename one")
    if whole:
        onnx = whole[0]
    elif torch:
        onnx = folder / f"{name}.onnx"
        to_onnx(load_spec(torch) if ".py:" in torch else torch, onnx)
    else:
        kind = "an engine" if is_engine(files[0]) else "no FP32 network"
        raise DataError(f"{files[0]} is {kind}; give the FP32 ONNX file or the checkpoint of {name} besides")
    source = torch or str(onnx)
    if ".py:" in source:
        source = source.rpartition(":")[0]
    contract = read_contract(load_model(onnx))
    return Network(
        name,
        onnx,
        contract,
        sha256(source),
        torch,
        Derived(cpu) if cpu else _make(to_cpu, onnx, folder / f"{name}{CPU_SUFFIX}", data),
        Derived(mnn) if mnn else _make(to_mnn, onnx, folder / f"{name}.mnn", data),
        others,
    )


def _given(files: Sequence[str], suffix: str) -> Path | None:
    return next((Path(file) for file in files if file.endswith(suffix)), None)


def _make(build: Callable, onnx: Path, output: Path, data: str | None) -> Derived:
    """The file, or why there is none: one more contender is not worth the others' run."""
    if build is to_mnn and find_spec("MNN") is None:
        return Derived(None, "MNN is not installed")
    try:
        if build is to_cpu and plugin_library.find("cpu") is None:
            return Derived(None, "the plugin library is not built; run `make plugins`")
        build(onnx, output, data=data)
    except ExportError as exc:  # the network is none for it
        return Derived(None, " ".join(str(exc).split()))
    except PosewarpError as exc:
        return Derived(None, error=exc)
    return Derived(output)


def _checkpoint(name: str, folder: Path) -> str:
    """The demo's, or one of a generator with random weights, which hide nothing."""
    if name == "demo":
        return str(resources.files("posewarp.models") / "demo/small.safetensors")
    from posewarp.benchmarks.random_generator import make_random_generator
    from posewarp.models import checkpoint
    from posewarp.models.config import GeneratorConfig

    config = GeneratorConfig.preset("deepfashion")
    if name == "deepfashion-512x352":
        config = dataclasses.replace(config, height=512, width=352)
    path = folder / f"{name}.safetensors"
    checkpoint.save(path, make_random_generator(config).state_dict(), config)
    return str(path)
