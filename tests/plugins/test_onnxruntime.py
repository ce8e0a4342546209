"""The operator in ONNX Runtime: it is taken where it should be, and gives what the core and PyTorch give."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from onnx.backend.test.case import node as onnx_cases
from onnx.backend.test.case.node import gridsample

from posewarp.export.graphs.warps import rewrite_warps, standard_mode
from posewarp.runtime import plugin_library
from posewarp.runtime.backends import onnxruntime as backend
from posewarp.runtime.errors import BackendError, PluginError
from posewarp.runtime.session import Session

MODES = ("bilinear", "nearest", "bicubic")
PADDINGS = ("zeros", "border", "reflection")


@pytest.fixture(scope="module")
def library() -> Path:
    found = plugin_library.find("cpu")
    assert found is not None, "run `make plugins` first"
    return found


@pytest.fixture
def warp_file(tmp_path):
    """A file of one warp, ``features`` and ``grid`` to ``sampled``; all sizes dynamic."""

    def write(
        spelling="portable",
        mode="bilinear",
        padding="zeros",
        align_corners=1,
        *,
        dtype="float",
        opset=18,
        volume=False,
    ) -> Path:
        space, out = (["D", "H", "W"], ["Do", "Ho", "Wo"]) if volume else (["H", "W"], ["Ho", "Wo"])
        features, sampled = (
            helper.make_tensor_value_info(name, getattr(TensorProto, dtype.upper()), ["N", "C", *sizes])
            for name, sizes in (("features", space), ("sampled", out))
        )
        grid = helper.make_tensor_value_info("grid", TensorProto.FLOAT, ["N", *out, len(out)])
        node = helper.make_node(
            "GridSample",
            ["features", "grid"],
            ["sampled"],
            mode=standard_mode(mode, opset),
            padding_mode=padding,
            align_corners=align_corners,
        )
        graph = helper.make_graph([node], "warp", [features, grid], [sampled])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        onnx.save(rewrite_warps(model, spelling), tmp_path / "warp.onnx")
        return tmp_path / "warp.onnx"

    return write


def change(path: Path, **attributes) -> Path:
    """Set attributes of a file's warp; None takes one away."""
    model = onnx.load(path)
    kept = [each for each in model.graph.node[0].attribute if each.name not in attributes]
    new = [helper.make_attribute(name, value) for name, value in attributes.items() if value is not None]
    del model.graph.node[0].attribute[:]
    model.graph.node[0].attribute.extend(kept + new)
    onnx.save(model, path)
    return path


def make_feeds(dtype=np.float32, volume=False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    space, out = ((4, 9, 7), (3, 6, 8)) if volume else ((9, 7), (6, 8))
    features = rng.standard_normal((2, 11, *space)).astype(dtype)
    return {"features": features, "grid": rng.uniform(-1.2, 1.2, (2, *out, len(out))).astype(np.float32)}


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """``executed(path, feeds, **options)``: the operators that a user's session ran, from ONNX Runtime's profile."""

    def profiled() -> onnxruntime.SessionOptions:
        options = plain()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        return options

    plain = onnxruntime.SessionOptions
    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)

    def run(path, feeds, **options) -> list[str]:
        with Session.open(path, **options) as session:
            session.run(feeds)
            profile = session.backend._session.end_profiling()
        events = json.loads(Path(profile).read_text())
        return [event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")]

    return run


# It gives what the core gives, and PyTorch


@pytest.mark.parametrize("spelling", ["portable", "plugin"])
@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize("mode", MODES)
def test_result_is_the_cores_and_pytorchs(warp_file, library, mode, opset, spelling):
    feeds = make_feeds()
    for padding in PADDINGS:
        for align_corners in (0, 1):
            path = warp_file(spelling, mode, padding, align_corners, opset=opset)
            with Session.open(path, plugins=[library], threads=2) as session:
                got = session.run(feeds)["sampled"]
            np.testing.assert_array_equal(
                got, plugin_library.grid_sample(*feeds.values(), mode, padding, bool(align_corners))
            )
            expected = torch.nn.functional.grid_sample(
                *map(torch.from_numpy, feeds.values()), mode, padding, bool(align_corners)
            )
            np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_volumes_and_fp16_features_equal_the_standard_operator(warp_file, library, mode, dtype):
    feeds = make_feeds(np.float16 if dtype == "float16" else np.float32, volume=True)
    path = warp_file(mode=mode, dtype=dtype, opset=20, volume=True)
    got, expected = (Session.open(path, plugins=plugins).run(feeds)["sampled"] for plugins in ([library], ()))
    assert got.dtype == expected.dtype
    tolerance = {"atol": 2e-3, "rtol": 1e-3} if dtype == "float16" else {"atol": 1e-5}  # 1 ulp of fp16 at 2
    np.testing.assert_allclose(got, expected, **tolerance)


def test_bfloat16_features(warp_file, library):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="onnx brings it")
    feeds = make_feeds(ml_dtypes.bfloat16)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(warp_file("plugin", dtype="bfloat16")), options)
    binding = session.io_binding()
    features = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
        feeds["features"].view(np.uint16), TensorProto.BFLOAT16
    )
    binding.bind_ortvalue_input("features", features)
    binding.bind_cpu_input("grid", feeds["grid"])
    expected = plugin_library.grid_sample(*feeds.values(), align_corners=True)
    out = np.zeros(expected.shape, np.uint16)
    sampled = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(out, TensorProto.BFLOAT16)
    binding.bind_ortvalue_output("sampled", sampled)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(out.view(ml_dtypes.bfloat16), expected)


ONNX_CASES = [case for case in onnx_cases._NodeTestCases if case.name.startswith("test_gridsample")]


def test_onnx_ships_its_cases_of_the_operator():
    assert gridsample.GridSample  # importing it adds its cases to the list
    assert len(ONNX_CASES) >= 18


@pytest.mark.parametrize("case", ONNX_CASES, ids=lambda case: case.name)
def test_onnx_own_cases_pass_through_the_operator(case, library, tmp_path):
    model = rewrite_warps(case.model, "plugin")
    onnx.save(model, tmp_path / "case.onnx")
    ((inputs, (expected,)),) = case.data_sets
    feeds = {info.name: value for info, value in zip(model.graph.input, inputs, strict=True)}
    with Session.open(tmp_path / "case.onnx", plugins=[library]) as session:
        (got,) = session.run(feeds).values()
    np.testing.assert_allclose(got, expected, rtol=case.rtol, atol=case.atol)


def test_empty_batch_gives_an_empty_result(warp_file, library):
    feeds = {name: value[:0] for name, value in make_feeds().items()}
    assert Session.open(warp_file(), plugins=[library]).run(feeds)["sampled"].shape == (0, 11, 6, 8)


def test_one_session_runs_in_many_threads(warp_file, library):
    session = Session.open(warp_file(), plugins=[library], threads=2)
    feeds = [{name: value + np.float32(0.01 * i) for name, value in make_feeds().items()} for i in range(8)]
    serial = [session.run(each)["sampled"] for each in feeds]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda each: session.run(each)["sampled"], feeds * 4))
    for got, expected in zip(threaded, serial * 4, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_session_runs_on_its_own_threads_alone(warp_file, library):
    code = f"""
import os
import numpy as np
from posewarp.runtime import plugin_library
from posewarp.runtime.session import Session
features, grid = np.ones((1, 64, 64, 64), np.float32), np.zeros((1, 64, 64, 2), np.float32)
session = Session.open({str(warp_file())!r}, plugins=[{str(library)!r}], threads=2)
counts = [len(os.listdir("/proc/self/task"))]
session.run({{"features": features, "grid": grid}})
counts.append(len(os.listdir("/proc/self/task")))
plugin_library.grid_sample(features, grid, threads=2)
counts.append(len(os.listdir("/proc/self/task")))
print(counts[1] - counts[0], counts[2] - counts[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # None for the session; that the library's own would be seen, the C interface shows.
    assert done.stdout.split() == ["0", "1"], done.stderr


# It is taken where it should be, and nowhere else


def test_operator_is_taken_when_registered_and_the_function_when_not(warp_file, library, executed):
    feeds = make_feeds(np.float16)
    path = warp_file(dtype="float16")
    assert executed(path, feeds, plugins=[library]) == ["MixedGridSample"]
    assert executed(path, feeds, plugins=()) == ["Cast", "GridSample", "Cast"]


def test_session_takes_what_is_found_and_says_so(warp_file, library, monkeypatch, tmp_path):
    path = warp_file()
    version = plugin_library.load().version
    name = f"ONNX Runtime {onnxruntime.__version__}"
    assert Session.open(path).backend.name == f"{name} with posewarp_cpu {version}"
    assert Session.open(path, plugins=()).backend.name == name
    monkeypatch.delenv("POSEWARP_PLUGIN_PATH", raising=False)
    monkeypatch.setattr(plugin_library, "FOLDER", tmp_path)
    assert Session.open(path).backend.name == name
    assert Session.open(path, plugins=[library]).backend.name == f"{name} with posewarp_cpu {version}"
    with pytest.raises(PluginError, match=r"gone\.so cannot be read"):
        Session.open(path, plugins=["gone.so"])


def test_one_library_is_taken_once_however_it_is_named(warp_file, library):
    path = warp_file()
    name = Session.open(path).backend.name
    loaded = plugin_library.load()
    for plugins in (library, str(library), library.parent, loaded, [loaded, library, str(library.parent)]):
        assert Session.open(path, plugins=plugins).backend.name == name
    with pytest.raises(PluginError, match="the path of a plugin library is empty"):
        Session.open(path, plugins="")


def test_shapes_are_inferred_through_the_operator(warp_file, library):
    model = onnx.load(warp_file())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path := warp_file().with_name("open.onnx"))
    assert Session.open(path, plugins=[library]).contract.outputs[0].shape == ("N", "C", "Ho", "Wo")


class FakeRuntime(SimpleNamespace):
    """What the backend asks of ONNX Runtime, with a CUDA device that starts; keeps what was registered."""

    def __init__(self, starts: bool = True):
        provider = "CUDAExecutionProvider" if starts else "CPUExecutionProvider"
        self.registered = []
        node = SimpleNamespace(name="x", type="tensor(float)", shape=[1])
        session = SimpleNamespace(
            get_providers=lambda: [provider],
            get_modelmeta=lambda: SimpleNamespace(custom_metadata_map={}),
            get_inputs=lambda: [node],
            get_outputs=lambda: [node],
        )
        super().__init__(
            __version__="1.99.0",
            SessionOptions=lambda: SimpleNamespace(
                register_custom_ops_library=self.registered.append,
                add_session_config_entry=lambda name, value: None,
            ),
            InferenceSession=lambda model, options, providers: session,
            get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        )


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_cuda_session_never_gets_the_cpu_library(warp_file, library, monkeypatch, device):
    fake = FakeRuntime()
    monkeypatch.setattr(backend, "_import_onnxruntime", lambda: fake)
    session = Session.open(warp_file(), device=device)
    assert (session.device, session.backend.name) == ("cuda", "ONNX Runtime 1.99.0")
    assert fake.registered == []


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_cpu_session_gets_it_also_where_auto_found_no_cuda(warp_file, library, monkeypatch, device):
    fake = FakeRuntime(starts=False)
    monkeypatch.setattr(backend, "_import_onnxruntime", lambda: fake)
    assert Session.open(warp_file(), device=device).device == "cpu"
    assert fake.registered == [str(library)]


def test_asking_for_the_library_on_cuda_is_an_error(warp_file, library, monkeypatch):
    monkeypatch.setattr(backend, "_import_onnxruntime", FakeRuntime)
    with pytest.raises(PluginError, match="a CUDA session takes none"):
        Session.open(warp_file(), device="cuda", plugins=[library])


# What is refused


def test_plugin_spelling_without_the_library_says_what_to_do(warp_file):
    with pytest.raises(
        BackendError, match=r"spelled as plugin nodes.*run `make plugins`, or give plugins="
    ) as caught:
        Session.open(warp_file("plugin"), plugins=())
    assert "\n" not in str(caught.value)


def test_features_of_another_type_say_what_to_do(warp_file, library):
    path = warp_file(dtype="double")
    feeds = {**make_feeds(), "features": make_feeds(np.float64)["features"]}
    assert Session.open(path, plugins=()).run(feeds)["sampled"].dtype == np.float64
    with pytest.raises(BackendError, match=r"samples fp32, fp16 and bf16; open it with plugins=\(\)"):
        Session.open(path, plugins=[library])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "linear"}, "attribute mode is 'linear', expected one of bilinear, nearest, bicubic"),
        ({"mode": None}, "attribute mode is missing"),
        ({"mode": 1}, "attribute mode is missing, or not a word"),
        ({"mode": "b" * 100}, "attribute mode is missing, or not a word"),
        ({"padding_mode": "wrap"}, "padding_mode is 'wrap', expected one of zeros, border, reflection"),
        ({"align_corners": 2}, "align_corners is missing, or neither 0 nor 1"),
        ({"align_corners": "1"}, "align_corners is missing, or neither 0 nor 1"),
    ],
)
def test_wrong_attributes_are_refused_when_the_file_is_opened(warp_file, library, attributes, message):
    path = change(warp_file("plugin"), **attributes)
    with pytest.raises(BackendError, match=f"MixedGridSample: .*{message}"):
        Session.open(path, plugins=[library])


def test_sizes_that_do_not_fit_are_refused(warp_file, library):
    feeds = make_feeds()
    model = onnx.load(warp_file("plugin"))
    del model.graph.input[1].type.tensor_type.shape.dim[:]
    model.graph.input[1].type.tensor_type.ClearField("shape")
    onnx.save(model, path := warp_file().with_name("open.onnx"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(path), options)
    for grid in (feeds["grid"][:1], feeds["grid"][..., :1], feeds["grid"][0]):
        with pytest.raises(Exception, match=r"features 2x11x9x7 and grid .*, expected \(N, C, H, W\) and"):
            session.run(None, {"features": feeds["features"], "grid": grid})
    with pytest.raises(Exception, match="MixedGridSample: features must have non-empty spatial sizes"):
        session.run(None, {"features": feeds["features"][:, :, :0], "grid": feeds["grid"]})


def test_bicubic_volume_is_refused(warp_file, library):
    path = change(warp_file("plugin", opset=20, volume=True), mode="bicubic")
    with pytest.raises(BackendError, match="MixedGridSample: bicubic takes images, not volumes"):
        Session.open(path, plugins=[library]).run(make_feeds(volume=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads an ELF file")
def test_library_exports_exactly_what_is_promised(library):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1].partition("@")[0] for line in listed.splitlines()}
    assert names == {"posewarp_cpu_version", "posewarp_cpu_simd", "posewarp_grid_sample", "RegisterCustomOps"}
