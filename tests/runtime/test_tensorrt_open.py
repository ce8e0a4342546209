"""Opening engines: each way in which plan and machine may not fit is one line, before TensorRT sees the plan."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from fakes import tensorrt
from fakes.fixtures import write_side_car
from fakes.tensorrt import PLUGIN, expected, make_plan

from posewarp.runtime import EngineOptions, Session, sidecar
from posewarp.runtime.errors import BackendError, ContractError, EngineError, PluginError
from posewarp.runtime.files import sha256

CUDA_PYTHON = pytest.mark.parametrize("provider", ["cuda-python"], indirect=True)
RTX = pytest.mark.parametrize("edition", ["tensorrt_rtx"], indirect=True)
GIVEN = {"x": np.ones((1, 3), np.float32), "k": np.ones((1, 2), np.float32)}


def runs(session):
    with session:
        np.testing.assert_array_equal(session.run(GIVEN)["y"], expected(**GIVEN)["y"])


@pytest.fixture
def not_deserialised(gpu):
    """What is refused here is refused before TensorRT sees the plan."""
    yield
    assert "deserialize_cuda_engine" not in gpu.calls


# Plan and side-car.


def test_plan_whose_side_car_was_deleted_runs(open_plan, tmp_path, provider):
    open_plan(side_car={}).close()
    sidecar.path_of(tmp_path / "model.engine").unlink()
    runs(Session.open(tmp_path / "model.engine", engine=EngineOptions(provider=provider)))


def test_suffix_plan_is_an_engine_too(tmp_path, provider, edition):
    plan = make_plan(tmp_path / "model.plan")
    runs(Session.open(plan, engine=EngineOptions(provider=provider)))


@pytest.mark.usefixtures("not_deserialised")
def test_side_car_of_another_engine_is_refused(tmp_path, provider, edition):
    plan = make_plan(tmp_path / "model.engine", note="one")
    write_side_car(plan, edition)
    make_plan(plan, note="two")
    with pytest.raises(EngineError, match=r"model\.engine\.json is the side-car of another engine"):
        Session.open(plan, engine=EngineOptions(provider=provider))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: its build was cut off"),
        (b"<html>404 not found</html> and more", "is not a TensorRT engine; build one: posewarp build"),
        (b"ftrt\0\0", "is cut short: 6 bytes"),
    ],
)
@pytest.mark.usefixtures("not_deserialised")
def test_file_that_is_no_plan_is_refused(tmp_path, provider, edition, content, message):
    plan = tmp_path / "model.engine"
    plan.write_bytes(content)
    with pytest.raises(EngineError, match=message):
        Session.open(plan, engine=EngineOptions(provider=provider))


@pytest.mark.parametrize("told", [True, False])
def test_truncated_plan_is_refused(gpu, tmp_path, provider, edition, told):
    plan = make_plan(tmp_path / "model.engine")
    if told:
        write_side_car(plan, edition)
    plan.write_bytes(plan.read_bytes()[:-9])
    message = (
        "its side-car speaks of" if told else "cannot be deserialised; .* said: Magic tag does not match"
    )
    with pytest.raises(EngineError, match=message):
        Session.open(plan, engine=EngineOptions(provider=provider))
    assert ("deserialize_cuda_engine" in gpu.calls) is not told


@RTX
def test_truncated_portable_plan_is_refused_by_its_own_length(tmp_path, provider, edition):
    plan = make_plan(tmp_path / "model.engine", edition)
    plan.write_bytes(plan.read_bytes()[:-9])
    with pytest.raises(EngineError, match="is cut short"):
        Session.open(plan, engine=EngineOptions(provider=provider))


@pytest.mark.parametrize("told", [{}, None])
@pytest.mark.usefixtures("not_deserialised")
def test_plan_of_another_version_is_refused_naming_both(open_plan, told):
    with pytest.raises(
        EngineError,
        match=r"was built with TensorRT 10\.3\.0\.26, this machine has 11\.1\.0\.106\. Rebuild it here: posewarp",
    ):
        open_plan(version="10.3.0.26", side_car=told)


@pytest.mark.usefixtures("not_deserialised")
def test_plan_for_another_gpu_is_refused_naming_both(open_plan):
    device = {"name": "NVIDIA H100", "compute_capability": "9.0"}
    with pytest.raises(
        EngineError, match=r"built for compute capability 9\.0; this machine has 8\.6\. Rebuild"
    ):
        open_plan(side_car={"device": device})


@RTX
@pytest.mark.usefixtures("not_deserialised")
def test_portable_plan_for_other_targets_is_refused(open_plan):
    with pytest.raises(
        EngineError, match=r"built for compute capability 8\.9 and 12\.0; this machine has 8\.6"
    ):
        open_plan(side_car={"targets": ["8.9", "12.0"], "device": None})


# Host code.


@pytest.mark.usefixtures("not_deserialised")
def test_plan_that_is_said_to_carry_host_code_is_refused(open_plan):
    with pytest.raises(
        EngineError, match=r"carries the lean runtime .* if you trust it: engine=EngineOptions"
    ):
        open_plan(side_car={"options": {"version_compatible": True}}, host_code=True)


def test_plan_that_carries_host_code_unsaid_is_refused_by_tensorrt(open_plan):
    with pytest.raises(
        EngineError, match=r"cannot be deserialised; it carries code .* if you trust it: engine="
    ):
        open_plan(host_code=True)


@pytest.mark.parametrize("told", [None, {"options": {"version_compatible": True}}])
def test_plan_with_host_code_runs_where_that_is_asked_for(open_plan, told):
    runs(open_plan(host_code=True, side_car=told, options={"allow_host_code": True}))


def test_version_compatible_plan_without_lean_runtime_carries_none(open_plan):
    runs(open_plan(side_car={"options": {"version_compatible": True, "exclude_lean_runtime": True}}))


# Plugins.


def needs(library, digest=None):
    return [{"name": library.name, "version": PLUGIN, "sha256": digest or sha256(library)}]


def test_plugin_library_is_loaded_before_the_plan_and_named(gpu, open_plan, plugin_file):
    with open_plan(plugin=PLUGIN, plugins=[plugin_file], side_car={"plugins": needs(plugin_file)}) as session:
        assert session.backend.name == f"TensorRT 11.1.0.106 with libposewarp_plugins.so ({PLUGIN})"
    assert gpu.calls.index("load_library") < gpu.calls.index("deserialize_cuda_engine")


@pytest.mark.parametrize("told", [True, False])
def test_plugin_library_is_found_where_the_user_put_it(open_plan, plugin_file, monkeypatch, told):
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(plugin_file.parent))
    runs(open_plan(plugin=PLUGIN, side_car={"plugins": needs(plugin_file)} if told else None))


def test_plugin_library_is_loaded_once_for_many_sessions(gpu, open_plan, plugin_file):
    for _ in range(3):
        runs(open_plan(plugin=PLUGIN, plugins=[plugin_file]))
    assert gpu.calls.count("load_library") == 1


@pytest.mark.parametrize("plugins", [None, ()])
@pytest.mark.usefixtures("not_deserialised")
def test_missing_plugin_library_is_named_by_the_side_car(open_plan, plugin_file, plugins):
    with pytest.raises(
        PluginError,
        match=r"needs the plugin library libposewarp_plugins\.so \(posewarp::MixedGridSample 1\); give it: plugins=",
    ):
        open_plan(plugin=PLUGIN, side_car={"plugins": needs(plugin_file)}, plugins=plugins)


def test_missing_plugin_is_named_by_tensorrt_where_there_is_no_side_car(open_plan):
    with pytest.raises(
        EngineError, match=rf"load its plugin library: plugins=.* said: Cannot find plugin: {PLUGIN}"
    ):
        open_plan(plugin=PLUGIN)


def test_path_in_a_side_car_is_never_loaded(gpu, open_plan, plugin_file):
    entry = {**needs(plugin_file)[0], "name": str(plugin_file), "path": str(plugin_file)}
    with pytest.raises(PluginError, match="needs the plugin library"):
        open_plan(plugin=PLUGIN, side_car={"plugins": [entry]})
    assert "load_library" not in gpu.calls


def test_no_plugin_library_is_loaded_for_a_plan_that_needs_none(gpu, open_plan, plugin_file, monkeypatch):
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(plugin_file.parent))
    runs(open_plan(side_car={}))
    assert "load_library" not in gpu.calls


def test_another_build_of_a_plugin_library_is_used_and_said(open_plan, plugin_file, caplog):
    runs(open_plan(plugin=PLUGIN, plugins=[plugin_file], side_car={"plugins": needs(plugin_file, "0" * 64)}))
    assert "is another build than the one that" in caplog.text


def test_plugin_library_that_tensorrt_refuses_is_one_line(open_plan, plugin_file, tmp_path):
    other = tmp_path / "other.so"
    other.write_bytes(plugin_file.read_bytes())
    with pytest.raises(PluginError, match=r"refuses the plugin library .*other\.so: .*may be loaded already"):
        open_plan(plugins=[plugin_file, other])


@RTX
@pytest.mark.usefixtures("not_deserialised")
def test_rtx_takes_no_plugins(gpu, open_plan, plugin_file, monkeypatch):
    with pytest.raises(
        PluginError, match="engines of TensorRT-RTX hold no plugins; open it without plugins="
    ):
        open_plan(plugins=[plugin_file])


@RTX
def test_rtx_never_loads_a_library_that_is_found(gpu, open_plan, plugin_file, monkeypatch):
    monkeypatch.setenv("POSEWARP_PLUGIN_PATH", str(plugin_file.parent))
    runs(open_plan())
    assert "load_library" not in gpu.calls


# Library, driver, device.


@pytest.mark.parametrize(
    ("edition", "made_for", "message"),
    [
        (
            "tensorrt_rtx",
            "tensorrt",
            r"needs TensorRT or TensorRT's lean runtime, which is not .*posewarp\[tens",
        ),
        (
            "tensorrt",
            "tensorrt_rtx",
            r"needs TensorRT-RTX, which is not installed: pip install 'posewarp\[rtx\]'",
        ),
    ],
    indirect=["edition"],
)
def test_library_that_a_plan_needs_is_named(tmp_path, provider, edition, made_for, message):
    plan = make_plan(tmp_path / "model.engine", made_for)
    write_side_car(plan, made_for)
    with pytest.raises(BackendError, match=message):
        Session.open(plan, engine=EngineOptions(provider=provider))


def test_library_may_be_chosen(gpu, tmp_path, provider, edition, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_lean_bindings", tensorrt.make_module(gpu, "tensorrt_lean"))
    plan = make_plan(tmp_path / "model.engine")
    for library, name in ((None, "TensorRT 11"), ("tensorrt_lean", "TensorRT's lean runtime 11")):
        with Session.open(plan, engine=EngineOptions(provider=provider, library=library)) as session:
            assert session.backend.name.startswith(name)
    with pytest.raises(BackendError, match="needs TensorRT-RTX, which is not installed"):
        Session.open(plan, engine=EngineOptions(library="tensorrt_rtx"))


def test_library_that_does_not_load_is_one_line(tmp_path, provider, edition, monkeypatch):
    for broken in ("raise ImportError('libnvinfer.so.11: cannot open')", "import not_there_either"):
        (tmp_path / "tensorrt.py").write_text(broken)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "tensorrt")
        with pytest.raises(
            BackendError, match=r"TensorRT does not load: (libnvinfer|No module named 'not_there)"
        ):
            Session.open(make_plan(tmp_path / "model.engine"), engine=EngineOptions(provider=provider))
        monkeypatch.setitem(sys.modules, "tensorrt", None)


@CUDA_PYTHON
@pytest.mark.usefixtures("not_deserialised")
@pytest.mark.parametrize("edition", ["tensorrt", "tensorrt_rtx", "tensorrt_lean"], indirect=True)
def test_without_a_driver_no_runtime_is_made(gpu, open_plan):
    gpu.fail("cuInit", status="no library")
    with pytest.raises(BackendError, match="no NVIDIA driver: libcuda is not installed on this machine"):
        open_plan()


@pytest.mark.usefixtures("not_deserialised")
def test_the_cpu_is_refused(tmp_path, edition):
    with pytest.raises(BackendError, match=r"model\.engine runs on an NVIDIA GPU only; leave device out"):
        Session.open(make_plan(tmp_path / "model.engine"), device="cpu")


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_cuda_and_auto_are_the_gpu(tmp_path, provider, edition, device):
    plan = make_plan(tmp_path / "model.engine")
    with Session.open(plan, device=device, engine=EngineOptions(provider=provider)) as session:
        assert session.device == "cuda"


# What the plan takes.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"types": {"k": "BF16"}}, "k has type BF16, which numpy arrays cannot have"),
        ({"locations": {"k": "HOST"}}, "k is a tensor of sizes on the host, which is not supported"),
        ({"formats": {"y": "HWC8"}}, "y has format HWC8, expected LINEAR; build it without --inputIOFormats"),
    ],
)
def test_plan_whose_tensors_cannot_be_given_is_refused(open_plan, content, message):
    with pytest.raises(EngineError, match=message):
        open_plan(**content)


def test_library_that_is_too_old_is_named(open_plan):
    with pytest.raises(EngineError, match=r"TensorRT 11\.1\.0\.106 is too old .* 10\.1 or later is needed"):
        open_plan(new=False)


def test_plan_that_needs_no_memory_for_activations_runs(open_plan):
    runs(open_plan(workspace=0))


def test_extra_outputs_are_those_that_the_plan_has(tmp_path, provider, edition):
    plan = make_plan(tmp_path / "model.engine")
    options = EngineOptions(provider=provider)
    Session.open(plan, extra_outputs=["y"], engine=options).close()
    with pytest.raises(
        ContractError, match="has no output 'flow'; an engine returns what was an output when"
    ):
        Session.open(plan, extra_outputs=["flow"], engine=options)


# The real libraries, in a process of their own, on a machine without a GPU or with its GPUs hidden.

OPEN = """
import sys
from posewarp.runtime import EngineOptions, PosewarpError, Session
try:
    Session.open(sys.argv[1], engine=EngineOptions(library=sys.argv[2]))
except PosewarpError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize("library", ["tensorrt_lean", "tensorrt_rtx"])
def test_real_library_without_a_driver_is_one_line_and_no_crash(tmp_path, library):
    module = f"{library}_bindings"
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("cuda") is None:
        pytest.skip(f"{module} or cuda-python is not installed")
    plan = make_plan(tmp_path / "model.engine", library)
    for told in (False, True):
        if told:
            write_side_car(plan, library)
        done = subprocess.run(
            [sys.executable, "-c", OPEN, plan, library],
            capture_output=True,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("BackendError no NVIDIA driver")
        assert done.stdout.count("\n") == 1


def test_without_that_probe_the_lean_library_crashes():
    """The reason for it; when this no longer fails, the probe may go."""
    if importlib.util.find_spec("tensorrt_lean_bindings") is None:
        pytest.skip("tensorrt_lean_bindings is not installed")
    code = "import tensorrt_lean_bindings as trt; trt.Runtime(trt.Logger())"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    if done.returncode == 0:
        pytest.skip("this machine has a driver")
    assert done.returncode < 0


def test_metadata_of_the_side_car_is_the_contract(open_plan):
    contract = {"io": "custom", "inputs": [], "outputs": [], "settings": {}}
    with pytest.raises(ContractError, match="which its contract does not name"):
        open_plan(side_car={"contract": json.loads(json.dumps(contract))})
