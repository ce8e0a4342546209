"""The Python steps of benchmarks/gpu.sh, over a GPU and a TensorRT that are played."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fakes.fixtures import gpu, provider  # noqa: F401 (a fake GPU behind both providers)
from fakes.gpu import Work
from networks.one_warp import one_warp
from typer.testing import CliRunner

from posewarp.benchmarks.gpu import device_layer, engines, networks, training
from posewarp.benchmarks.gpu import provider as provider_step
from posewarp.export.graphs.graph import load_model
from posewarp.export.precision.emulation import half_type
from posewarp.runtime.backends.device import open_device
from posewarp.runtime.errors import BackendError, EngineError, ParityError, PluginError
from posewarp.runtime.session import Session

ROOT = Path(device_layer.__file__).parents[2]
SIZE = 4096


@pytest.fixture
def make_launch(gpu):  # noqa: F811
    """``make_launch(factor)``: PyTorch's grid_sample as the kernel, its results times a factor."""

    def make(factor=1.0):
        def launch(features, grid, output, shape, stream):
            count = 4 * int(np.prod(shape))
            into, out_of = gpu.span(output, count, "kernel"), gpu.span(features, count, "kernel")
            points = gpu.span(grid, 8 * shape[0] * shape[2] * shape[3], "kernel")

            def act():
                x = torch.from_numpy(out_of.data.view(np.float32).reshape(shape).copy())
                at = torch.from_numpy(points.data.view(np.float32).reshape(shape[0], *shape[2:], 2).copy())
                y = factor * torch.nn.functional.grid_sample(x, at, align_corners=True)
                into.data[:] = y.numpy().view(np.uint8).reshape(-1)

            gpu.give(stream, Work("kernel", [out_of, points], [into], act))

        return launch

    return make


@pytest.fixture
def device(provider, monkeypatch):  # noqa: F811
    monkeypatch.setattr(device_layer, "REPEATS", 2)
    monkeypatch.setattr(device_layer, "LAUNCHES", 3)
    monkeypatch.setattr(device_layer, "SHAPE", (1, 2, 6, 5))
    opened = open_device(provider)
    yield opened
    opened.close()


def test_device_layer_gives_its_figures_and_everything_back(device, make_launch):
    found = device_layer.measure(device, make_launch(), SIZE)
    assert found["kernel"]["max_abs"] == 0
    assert all(found[name] > 0 for name in ("copy_in_gb_s", "copy_out_gb_s", "both_ways_gb_s"))
    assert found["kernel"]["launched_us"] > 0
    assert ("graph_us" in found["kernel"]) is device.captures


def test_a_kernel_that_is_wrong_is_not_timed(device, make_launch):
    with pytest.raises(ParityError, match=r"our kernel, launched, is off PyTorch's by .* \(limit 0\.0001\)"):
        device_layer.measure(device, make_launch(1.01), SIZE)


def test_a_replay_that_reads_what_was_captured_is_found(gpu, device, make_launch, monkeypatch):  # noqa: F811
    if not device.captures:
        pytest.skip("pycuda captures no graphs")
    monkeypatch.setattr(device, "launch", lambda graph, stream: None)  # output stays as it was
    with pytest.raises(ParityError, match="replayed on changed features"):
        device_layer.measure(device, make_launch(), SIZE)


def test_a_missing_kernel_library_says_how_to_build_it(tmp_path):
    with pytest.raises(PluginError, match=r"build it: make plugins && bash benchmarks/gpu/launch\.sh"):
        device_layer.load_kernel(tmp_path / "none.so")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(PluginError, match="does not load"):
        device_layer.load_kernel(tmp_path / "text.so")


def test_command_tells_of_a_provider_that_is_not_there(device, make_launch, monkeypatch, tmp_path):
    @contextlib.contextmanager
    def opened():
        yield device

    def open_one(name, stack):
        if name == "pycuda":
            raise BackendError("pycuda is not here (no wheel)")
        return stack.enter_context(opened())

    monkeypatch.setattr(device_layer, "_in_context", open_one)
    monkeypatch.setattr(device_layer, "COPY_BYTES", SIZE)
    monkeypatch.setattr(device_layer, "load_kernel", lambda path: make_launch())
    monkeypatch.setattr(device_layer.measure, "__defaults__", (SIZE,))
    done = CliRunner().invoke(device_layer.app, ["--json", str(tmp_path / "device.json")])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "device.json").read_text())
    assert found["pycuda"] == "not measured: pycuda is not here (no wheel)"
    assert found["cuda-python"]["kernel"]["shape"] == [1, 2, 6, 5]


@pytest.mark.slow
def test_kernel_library_builds_and_without_a_driver_says_so(tmp_path):
    archive = ROOT / "build" / "plugins" / "cuda" / "libposewarp_cuda.a"
    if not shutil.which("nvcc") or not archive.exists():
        pytest.skip("no nvcc, or no CUDA kernels in build/plugins")
    for folder in ("cuda", "lib"):
        (tmp_path / folder).mkdir()
    os.link(archive, tmp_path / "cuda" / archive.name)
    script = ["bash", ROOT / "benchmarks" / "gpu" / "launch.sh", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    launch = device_layer.load_kernel(tmp_path / "lib" / "libposewarp_launch.so")
    launch(0, 0, 0, (0, 1, 2, 2), 0)  # nothing to do
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="CUDA failed in launchGridSample: status"):
            launch(0, 0, 0, (1, 1, 2, 2), 0)


# Engines


def test_where_no_tensorrt_takes_the_card_it_is_not_measured_and_why(monkeypatch, tmp_path):
    asked = []

    def refuse(path, output, *, backend, targets, **options):
        asked.append((backend, tuple(targets)))
        raise EngineError(f"{backend} refuses\n9.0")

    monkeypatch.setattr(engines, "to_engine", refuse)
    done = CliRunner().invoke(
        engines.app, [str(tmp_path / "engines"), "--json", str(tmp_path / "engines.json")]
    )
    assert done.exit_code == engines.NOT_MEASURED
    last = done.output.splitlines()[-1]
    assert last == (
        "not measured: no TensorRT for this card (tensorrt: tensorrt refuses 9.0; rtx: rtx refuses 9.0)"
    )
    assert asked == [("tensorrt", ()), ("rtx", ("current",))]
    assert not (tmp_path / "engines.json").exists()


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("failed", 1)])
def test_each_network_is_measured_and_a_failed_parity_fails_the_step(monkeypatch, tmp_path, status, code):
    monkeypatch.setattr(engines, "find_backend", lambda folder: ("rtx", ["tensorrt: not installed"]))
    monkeypatch.setattr(
        engines,
        "measure",
        lambda name, folder, backend: {
            "fp32": {"status": "passed"},
            "fp16": {"status": status if name == "deepfashion" else "passed"},
        },
    )
    done = CliRunner().invoke(engines.app, [str(tmp_path), "--json", str(tmp_path / "engines.json")])
    assert done.exit_code == code
    found = json.loads((tmp_path / "engines.json").read_text())
    assert (found["backend"], list(found["networks"])) == ("rtx", ["demo", "deepfashion"])
    if code:
        assert isinstance(done.exception, ParityError)
        assert str(done.exception) == "1 of 4 engines: failed"


def test_an_error_of_one_type_does_not_hide_the_other(monkeypatch, tmp_path):
    class Report:
        def to_json(self):
            return '{"status": "passed"}'

    def build(path, engine, backend, *, precision, plugins, profiles):
        if precision == "fp32":
            raise EngineError("out of\nmemory")

    onnx.save(one_warp(16, 8), tmp_path / "demo.onnx")
    monkeypatch.setattr(engines, "_shapes", lambda contract: None)
    monkeypatch.setattr(engines, "build", build)
    asked = {}
    monkeypatch.setattr(
        engines, "parity", lambda a, b, **options: asked.update(options, a=a, b=b) or Report()
    )
    found = engines.measure("demo", tmp_path, "rtx")
    assert found == {"fp32": {"status": "failed: out of memory"}, "fp16": {"status": "passed"}}
    assert asked == {
        "a": tmp_path / "demo.safetensors",
        "b": tmp_path / "demo.fp16.engine",
        "batches": (1, 2, 7, 16),
        "dtype": "fp16",
        "tolerance": None,
    }


# Networks, ONNX Runtime's CUDA provider, training


@pytest.mark.slow
def test_networks_are_made_once_with_all_that_the_steps_take(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "NETWORKS", ("demo",))
    done = CliRunner().invoke(networks.app, [str(tmp_path / "made")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made >= {"demo.safetensors", "demo.onnx", "demo.fp16.onnx", "demo.half.onnx"}
    assert half_type(load_model(tmp_path / "made/demo.half.onnx")) == "fp16"


@pytest.fixture
def on_cuda(monkeypatch):
    """ONNX Runtime on the CPU in the place of its CUDA provider; what was opened for it."""
    opened, real = [], Session.open.__func__

    def open_session(cls, path, *, device=None, **options):
        opened.append((Path(path).name, device))
        return real(cls, path, **options)

    monkeypatch.setattr(Session, "open", classmethod(open_session))
    return opened


def test_a_file_is_held_to_pytorch_on_the_provider_and_its_positions_to_the_fp32_file(
    on_cuda, monkeypatch, tmp_path
):
    moved = types.SimpleNamespace(own_flow_p999_px=0.06)
    output = types.SimpleNamespace(max_abs=2.0, psnr_db=60.0)
    case = types.SimpleNamespace(outputs=[output])
    asked = []

    def parity(a, b, **options):
        asked.append((a.name, b.name, options["batches"], options["device"], options["tolerance"]))
        return types.SimpleNamespace(status="passed", cases=[case], warps=[moved])

    monkeypatch.setattr(provider_step, "parity", parity)
    found = {kind: provider_step.measure(tmp_path, "demo", kind) for kind in provider_step.FILES}
    assert found["fp16"] == {
        "status": "positions move by 0.06 px",
        "max_abs": 2.0,
        "psnr_db": 60.0,
        "own_flow_p999_px": 0.06,
    }
    assert asked == [
        ("demo.safetensors", "demo.onnx", (1, 2, 7, 16), "cuda", {"atol": 1e-4}),
        ("demo.onnx", "demo.onnx", (1,), "cuda", {"atol": 1e-4}),
        ("demo.safetensors", "demo.fp16.onnx", (1, 2, 7, 16), "cuda", None),
        ("demo.onnx", "demo.fp16.onnx", (1,), "cuda", None),
        ("demo.safetensors", "demo.half.onnx", (1, 2), "cuda", None),
        ("demo.onnx", "demo.half.onnx", (1,), "cuda", None),
    ]


@pytest.mark.parametrize(("failing", "code"), [("all fp16", 0), ("fp16", 1)])
def test_what_must_pass_decides_the_step_and_all_is_written(on_cuda, monkeypatch, tmp_path, failing, code):
    onnx.save(one_warp(16, 8), tmp_path / "demo.onnx")

    def measure(folder, name, kind):
        return {"status": "failed" if (name, kind) == ("deepfashion", failing) else "passed"}

    monkeypatch.setattr(provider_step, "measure", measure)
    monkeypatch.setattr(provider_step, "ProcessPoolExecutor", lambda count, *_: ThreadPoolExecutor(count))
    done = CliRunner().invoke(provider_step.app, [str(tmp_path), "--json", str(tmp_path / "provider.json")])
    assert done.exit_code == code
    assert on_cuda == [("demo.onnx", "cuda")]
    found = json.loads((tmp_path / "provider.json").read_text())
    assert found["deepfashion"][failing] == {"status": "failed"}
    if code:
        assert str(done.exception) == "deepfashion fp16: failed"


def test_without_the_provider_it_is_not_measured(monkeypatch, tmp_path):
    def refuse(path, **options):
        raise BackendError("ONNX Runtime cannot run on cuda: no driver")

    monkeypatch.setattr(Session, "open", refuse)
    done = CliRunner().invoke(provider_step.app, [str(tmp_path)])
    assert done.exit_code == provider_step.NOT_MEASURED
    assert done.output.splitlines()[-1] == "not measured: ONNX Runtime cannot run on cuda: no driver"


def test_a_short_run_gives_its_last_losses(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "STEPS", 2)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    line = training.train(tmp_path / "run", "bf16", preset="small", device="cpu")
    assert line["step"] == 2
    assert line["l1"] > 0


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(BackendError, match=r"training in fp16 failed: .*fp16"):
        training.train(tmp_path / "run", "fp16", preset="small", device="cpu")


@pytest.mark.parametrize(("l1", "code"), [(0.29, 0), (0.31, 1), (float("nan"), 1)])
def test_losses_stay_beside_those_of_fp32(monkeypatch, tmp_path, l1, code):
    monkeypatch.setattr(
        training, "train", lambda folder, precision: {"l1": l1 if precision == "fp16" else 0.27}
    )
    done = CliRunner().invoke(training.app, [str(tmp_path), "--json", str(tmp_path / "training.json")])
    assert done.exit_code == code
    assert list(json.loads((tmp_path / "training.json").read_text())) == ["fp32", "bf16", "fp16"]
    if code:
        assert "L1 of fp16 is" in str(done.exception)
