from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numpy as np
import onnxruntime
import pytest

from posewarp.runtime.backends import onnxruntime as backend
from posewarp.runtime.contract import METADATA_KEY, Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError
from posewarp.runtime.session import Session

X = np.array([[1.0, -2.0, 3.0]], np.float32)
Y = np.array([[2.0, 0.0, 6.0]], np.float32)


def one_to_one(io, shape, settings=None) -> Contract:
    """x -> y, both float32 and of one shape."""
    x, y = (TensorSpec(name, "float32", shape) for name in "xy")
    return Contract(io, (x,), (y,), settings or {})


@pytest.fixture
def identity(onnx_file):
    def write(shape, dtype="float", **options):
        return onnx_file(
            "identity.onnx",
            [("Identity", ["x"], ["y"])],
            {"x": (dtype, shape)},
            {"y": (dtype, shape)},
            **options,
        )

    return write


def test_runs_by_name(double_model):
    with Session.open(double_model) as session:
        result = session.run({"x": X})
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], Y)


def test_without_a_contract_it_is_derived_from_the_file(double_model):
    session = Session.open(double_model)
    assert session.contract == one_to_one("custom", ("batch", 3))
    assert session.metadata == {"note": "written by a test"}


def test_contract_comes_from_the_metadata(identity):
    contract = one_to_one("tensors", ("batch", 3), {"height": 8})
    path = identity(("batch", 3), metadata={METADATA_KEY: contract.to_json()})
    assert Session.open(path).contract == contract


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"io": "custom", "inputs": [{"name": "x", "dtype": "float32", "shape": 3}], "outputs": []}',
        '{"io": "custom", "inputs": [{"name": "x", "dtype": "float32", "shape": [null]}], "outputs": []}',
        '{"io": "custom", "inputs": [], "outputs": [], "settings": {"height": "256"}}',
        '{"io": "custom", "inputs": [], "outputs": [], "settings": {"size_multiple": 0}}',
        '{"io": "custom", "inputs": [], "outputs": [], "settings": {"minimum": 8}}',
        '{"io": "custom", "inputs": [], "outputs": [], "settings": {"minimum": {"height": "8"}}}',
    ],
)
def test_metadata_that_is_no_contract_is_named(identity, text):
    with pytest.raises(ContractError, match=r"posewarp\.contract is not a contract"):
        Session.open(identity((3,), metadata={METADATA_KEY: text}))


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("z", "float32", ("batch", 3)),
        ("x", "float64", ("batch", 3)),
        ("x", "float32", ("batch", "n")),
        ("x", "float32", (3,)),
    ],
)
@pytest.mark.parametrize("io", ["inputs", "outputs"])
def test_contract_that_the_file_does_not_keep_is_refused(double_model, io, name, dtype, shape):
    right = one_to_one("custom", ("batch", 3))
    wrong = (TensorSpec(name if io == "inputs" else name.replace("x", "y"), dtype, shape),)
    contract = Contract("custom", **{"inputs": right.inputs, "outputs": right.outputs, io: wrong})
    with pytest.raises(ContractError, match=r"double\.onnx"):
        Session.open(double_model, contract=contract)


def test_narrower_contract_is_kept_and_a_custom_model_is_not_split(double_model):
    session = Session.open(double_model, contract=one_to_one("custom", (1, 3)))
    np.testing.assert_array_equal(session.run({"x": X})["y"], Y)
    with pytest.raises(ContractError, match=r"shape \(2, 3\), expected 1 on axis 0"):
        session.run({"x": np.repeat(X, 2, 0)})


def test_outputs_are_bound_by_name_not_by_position(onnx_file):
    path = onnx_file(
        "two.onnx",
        [("Neg", ["b"], ["minus_b"]), ("Abs", ["a"], ["abs_a"])],
        {"a": ("float", (2,)), "b": ("float", (2,))},
        {"minus_b": ("float", (2,)), "abs_a": ("float", (2,))},
    )
    specs = {name: TensorSpec(name, "float32", (2,)) for name in ("a", "b", "abs_a", "minus_b")}
    contract = Contract("custom", (specs["b"], specs["a"]), (specs["abs_a"], specs["minus_b"]))
    result = Session.open(path, contract=contract).run({"a": np.float32([-1, 2]), "b": np.float32([3, 4])})
    np.testing.assert_array_equal(result["abs_a"], [1, 2])
    np.testing.assert_array_equal(result["minus_b"], [-3, -4])


def test_returned_arrays_belong_to_the_caller(identity):
    session = Session.open(identity(("batch", 3)), extra_outputs=["x"])
    x = X.copy()
    first = session.run({"x": x})
    for array in first.values():
        array += 1  # writeable, and nobody else's
    np.testing.assert_array_equal(x, X)
    second = session.run({"x": x})["y"]
    session.close()
    np.testing.assert_array_equal(first["y"], X + 1)
    np.testing.assert_array_equal(second, X)


@pytest.mark.parametrize(
    "x",
    [
        X.astype(np.float64),
        X.astype(np.float16),
        X.astype(">f4"),
        X.astype(np.int64),
        X.tolist(),
        np.repeat(X, 2, 1)[:, ::2],
        np.asfortranarray(np.repeat(X, 2, 0))[:1],
    ],
    ids=["float64", "float16", "big-endian", "int64", "list", "strided", "fortran"],
)
def test_equal_values_give_equal_results_however_they_are_stored(double_model, x):
    np.testing.assert_array_equal(Session.open(double_model).run({"x": x})["y"], Y)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "missing input x; the model takes x"),
        ({"x": X, "w": X}, "unknown input w"),
        ({"x": X[0]}, r"shape \(3,\), expected 2 axes"),
        ({"x": X[:, :2]}, r"shape \(1, 2\), expected 3 on axis 1"),
        ({"x": X.astype(np.uint8)}, "type uint8, expected float32"),
        ({"x": X.astype(np.complex64)}, "type complex64"),
        ({"x": [["a", "b", "c"]]}, "type <U1"),
        ({"x": [[1.0], [1.0, 2.0]]}, "not an array"),
    ],
)
def test_wrong_inputs_are_refused_by_name(double_model, feeds, message):
    with pytest.raises(ContractError, match=message):
        Session.open(double_model).run(feeds)


def test_axes_of_one_name_must_agree(onnx_file):
    path = onnx_file(
        "add.onnx",
        [("Add", ["a", "b"], ["y"])],  # would broadcast a batch of one
        {"a": ("float", ("batch", 3)), "b": ("float", ("batch", 3))},
        {"y": ("float", ("batch", 3))},
    )
    with pytest.raises(ContractError, match="input b has batch = 1, but input a has 2"):
        Session.open(path).run({"a": np.repeat(X, 2, 0), "b": X})


def test_unnamed_axes_are_dynamic_and_independent(onnx_file):
    path = onnx_file(
        "join.onnx",
        [("Concat", ["a", "b"], ["y"], {"axis": 0})],
        {"a": ("float", (None,)), "b": ("float", (None,))},
        {"y": ("float", (None,))},
    )
    result = Session.open(path).run({"a": np.zeros(2, np.float32), "b": np.ones(3, np.float32)})
    np.testing.assert_array_equal(result["y"], [0, 0, 1, 1, 1])


def test_scalar_input_keeps_its_rank(identity):
    assert Session.open(identity(())).run({"x": 2.5})["y"].shape == ()


def test_size_multiple_is_checked_where_size_is_dynamic(identity):
    shape = ("batch", 3, "height", "width")
    session = Session.open(identity(shape), contract=one_to_one("tensors", shape, {"size_multiple": 4}))
    assert session.run({"x": np.zeros((2, 3, 8, 12), np.float32)})["y"].shape == (2, 3, 8, 12)
    with pytest.raises(ContractError, match="input x has width 10, expected a multiple of 4"):
        session.run({"x": np.zeros((2, 3, 8, 10), np.float32)})


def test_smallest_size_is_checked_where_size_is_dynamic(identity):
    shape = ("batch", 3, "height", "width")
    settings = {"minimum": {"height": 8, "width": 8}}
    session = Session.open(identity(shape), contract=one_to_one("tensors", shape, settings))
    assert session.run({"x": np.zeros((1, 3, 8, 8), np.float32)})["y"].shape == (1, 3, 8, 8)
    with pytest.raises(ContractError, match="input x has height 4, expected at least 8"):
        session.run({"x": np.zeros((1, 3, 4, 8), np.float32)})


def test_fixed_batch_is_run_in_parts(onnx_file, rng):
    # The mean over the batch axis shows whether each part was really run alone.
    path = onnx_file(
        "fixed.onnx",
        [("ReduceMean", ["x", "axis"], ["mean"]), ("Sub", ["x", "mean"], ["y"])],
        {"x": ("float", (2, 3))},
        {"y": ("float", (2, 3))},
        constants={"axis": np.array([0])},
    )
    contract = one_to_one("tensors", (2, 3))
    x = rng.normal(size=(6, 3)).astype(np.float32)
    result = Session.open(path, contract=contract, extra_outputs=["mean"]).run({"x": x})
    mean = x.reshape(3, 2, 3).mean(1)
    np.testing.assert_allclose(result["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(result["y"], x - np.repeat(mean, 2, 0), atol=1e-6)
    with pytest.raises(ContractError, match=r"shape \(3, 3\), expected 2 on axis 0"):
        Session.open(path, contract=contract).run({"x": x[:3]})


def test_internal_tensor_is_returned_when_asked_for(double_model):
    result = Session.open(double_model, extra_outputs=["middle", "y"]).run({"x": X})
    assert set(result) == {"y", "middle"}
    np.testing.assert_array_equal(result["y"], Y)
    np.testing.assert_array_equal(result["middle"], X + X)
    assert list(Session.open(double_model).run({"x": X})) == ["y"]


def test_internal_tensor_is_returned_beside_the_contract_of_the_metadata(onnx_file):
    path = onnx_file(
        "m.onnx",
        [("Add", ["x", "x"], ["middle"]), ("Neg", ["middle"], ["y"])],
        {"x": ("float", (1, 3))},
        {"y": ("float", (1, 3))},
        metadata={METADATA_KEY: one_to_one("tensors", (1, 3)).to_json()},
    )
    result = Session.open(path, extra_outputs=["middle"]).run({"x": np.repeat(X, 2, 0)})
    assert list(result) == ["y", "middle"]
    np.testing.assert_array_equal(result["middle"], np.repeat(X + X, 2, 0))


def test_extra_output_with_a_name_longer_than_one_length_byte(onnx_file):
    name = "n" * 300
    nodes = [("Neg", ["x"], [name]), ("Neg", [name], ["y"])]
    path = onnx_file("m.onnx", nodes, {"x": ("float", (3,))}, {"y": ("float", (3,))})
    assert name in Session.open(path, extra_outputs=[name]).run({"x": X[0]})


def test_extra_output_finds_weights_in_a_file_beside_the_model(onnx_file):
    path = onnx_file(
        "m.onnx",
        [("Add", ["x", "w"], ["h"]), ("Neg", ["h"], ["y"])],
        {"x": ("float", (400,))},
        {"y": ("float", (400,))},
        constants={"w": np.arange(400, dtype=np.float32)},
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (path.parent / "weights.bin").exists()
    result = Session.open(path, extra_outputs=["h"]).run({"x": np.zeros(400, np.float32)})
    np.testing.assert_array_equal(result["h"], np.arange(400))


def test_unknown_extra_output_is_named(double_model):
    with pytest.raises(ContractError, match="no tensor 'flow'"):
        Session.open(double_model, extra_outputs=["flow"])


def test_four_threads_give_what_one_gives(onnx_file, rng):
    path = onnx_file(
        "m.onnx",
        [("Conv", ["x", "w"], ["h"]), ("Tanh", ["h"], ["y"])],
        {"x": ("float", ("batch", 3, 32, 32))},
        {"y": ("float", ("batch", 8, 30, 30))},
        constants={"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)},
    )
    session = Session.open(path, threads=1)
    inputs = [rng.normal(size=(1 + i % 3, 3, 32, 32)).astype(np.float32) for i in range(24)]
    serial = [session.run({"x": x})["y"] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda x: session.run({"x": x})["y"], inputs * 4))
    for expected, got in zip(serial * 4, threaded, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_thread_counts_are_both_set(double_model, monkeypatch):
    def counts(**options):
        read = Session.open(double_model, **options).backend._session.get_session_options()
        return read.intra_op_num_threads, read.inter_op_num_threads

    quota = double_model.parent / "cpu.max"
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    monkeypatch.setattr("posewarp.runtime.threads._CGROUP_LIMIT", quota)
    assert counts() == (3, 1)
    assert counts(threads=1) == (1, 1)
    for text, expected in (("250000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 3)):
        quota.write_text(text)
        assert counts() == (expected, 1)
    with pytest.raises(ContractError, match="threads is 0"):
        Session.open(double_model, threads=0)


def test_threads_stop_spinning_when_a_run_is_over(double_model):
    """They would take the CPUs from another session of the process."""
    with Session.open(double_model) as session:
        read = session.backend._session.get_session_options()
        assert read.get_session_config_entry("session.force_spinning_stop") == "1"


def test_closed_session_says_so(double_model):
    session = Session.open(double_model)
    assert "ONNX Runtime" in repr(session)
    session.close()
    session.close()
    assert "closed" in repr(session)
    with pytest.raises(BackendError, match=r"double\.onnx is closed"):
        session.run({"x": X})


# What cannot be opened


@pytest.mark.parametrize(
    "content", [b"hello world", b"", b"<html></html>", None], ids=["text", "empty", "html", "truncated"]
)
def test_file_that_is_no_model_is_named(double_model, content):
    double_model.write_bytes(double_model.read_bytes()[:40] if content is None else content)
    with pytest.raises(BackendError, match=r"double\.onnx cannot be opened by ONNX Runtime \d") as caught:
        Session.open(double_model)
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_unknown_suffix_are_told_apart(tmp_path):
    with pytest.raises(BackendError, match=r"gone\.onnx does not exist"):
        Session.open(tmp_path / "gone.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(BackendError, match=r"folder\.onnx is not a file"):
        Session.open(tmp_path / "folder.onnx")
    (tmp_path / "m.bin").touch()
    with pytest.raises(BackendError, match=r"m\.bin is not a model file .* known are \.onnx"):
        Session.open(tmp_path / "m.bin")


def test_unsupported_opset_is_told_on_one_line(identity):
    with pytest.raises(BackendError, match=r"identity\.onnx .*: ONNX Runtime only .*Opset 99") as caught:
        Session.open(identity((1,), opset=99, check=False))
    assert "\n" not in str(caught.value)


def test_unknown_operator_is_named(onnx_file):
    scalar = {"x": ("float", (1,))}, {"y": ("float", (1,))}
    path = onnx_file("unknown.onnx", [("Nonsense", ["x"], ["y"])], *scalar, check=False)
    with pytest.raises(BackendError, match=r"unknown\.onnx .*Nonsense"):
        Session.open(path)


def test_type_without_a_numpy_equal_is_refused(identity):
    with pytest.raises(BackendError, match=r"x has type tensor\(bfloat16\)"):
        Session.open(identity((1,), dtype="bfloat16"))


def test_failure_inside_a_run_is_mapped(onnx_file):
    path = onnx_file(
        "m.onnx",
        [("Reshape", ["x", "shape"], ["y"])],
        {"x": ("float", ("n",))},
        {"y": ("float", (2, "k"))},
        constants={"shape": np.array([2, -1])},
    )
    with pytest.raises(BackendError, match="failed on cpu") as caught:
        Session.open(path).run({"x": np.zeros(3, np.float32)})
    assert "\n" not in str(caught.value)


# Devices. No GPU is needed to test that asking for one in vain is said.


@pytest.fixture
def cpu_only(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_cuda_in_a_cpu_only_install_is_an_error(double_model, cpu_only):
    with pytest.raises(BackendError, match=r"cannot run on cuda: .* pip install posewarp\[gpu\]"):
        Session.open(double_model, device="cuda")


def test_auto_says_what_it_took(double_model, cpu_only, caplog):
    with caplog.at_level(logging.INFO):
        session = Session.open(double_model, device="auto")
    assert session.device == "cpu"
    assert "device auto takes the CPU" in caplog.text


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_cuda_provider_that_does_not_start_is_an_error(double_model, monkeypatch):
    # As onnxruntime-gpu without a driver does: CUDA is on the list, and the session silently is a CPU one.
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA may start here")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), False)
    with pytest.raises(BackendError, match=r"CUDA could not be started .*Failed to load libcudnn"):
        Session.open(double_model, device="cuda")
    assert Session.open(double_model, device="auto").device == "cpu"


def test_unknown_device_is_refused(double_model):
    with pytest.raises(BackendError, match="no device 'gpu'; there are cpu, cuda, auto"):
        Session.open(double_model, device="gpu")


def test_two_builds_installed_over_each_other_are_named(double_model, cpu_only, monkeypatch):
    versions = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(backend.metadata, "version", version)
    said = r"onnxruntime 1\.32\.0 and onnxruntime-gpu 1\.31\.0 are installed over each other"
    with pytest.raises(BackendError, match=said):
        Session.open(double_model, device="cuda")
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(BackendError, match=said):
        Session.open(double_model)


def test_missing_library_says_what_to_install(double_model, monkeypatch):
    monkeypatch.setattr(backend, "_overwritten", lambda: "")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install posewarp\[cpu\]"):
        Session.open(double_model)
