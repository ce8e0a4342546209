"""Sessions of MNN files: answers, shapes, threads, memory, and files that are refused."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from posewarp.runtime import sidecar
from posewarp.runtime.contract import Contract, TensorSpec
from posewarp.runtime.errors import BackendError, ContractError, EngineError, PluginError
from posewarp.runtime.session import Session

pytest.importorskip("MNN")
mnn_process = pytest.importorskip("posewarp.export.engines.mnn_process")

CONTRACT = Contract(
    "custom",
    (TensorSpec("picture", "uint8", ("batch", "height", 4, 3)),),
    (TensorSpec("mean", "float32", ("batch", 3)), TensorSpec("doubled", "uint8", ("batch", "height", 4, 3))),
)


@pytest.fixture
def mnn_file(onnx_file, tmp_path) -> Path:
    """mean of a uint8 picture's channels, and twice its halved values; with its side-car."""
    onnx = onnx_file(
        "model.onnx",
        [
            ("Cast", ["picture"], ["wide"], {"to": 1}),
            ("ReduceMean", ["wide", "axes"], ["mean"], {"keepdims": 0}),
            ("Mul", ["wide", "half"], ["halved"]),
            ("Round", ["halved"], ["rounded"]),
            ("Add", ["rounded", "rounded"], ["sum"]),
            ("Clip", ["sum", "black", "white"], ["clipped"]),
            ("Cast", ["clipped"], ["doubled"], {"to": 2}),
        ],
        {"picture": ("uint8", ("batch", "height", 4, 3))},
        {"mean": ("float", ("batch", 3)), "doubled": ("uint8", ("batch", "height", 4, 3))},
        constants={
            "axes": np.array([1, 2]),
            "half": np.float32(0.5),
            "black": np.float32(0),
            "white": np.float32(255),
        },
    )
    path = tmp_path / "model.mnn"
    mnn_process.convert(onnx, path)
    write_sidecar(path)
    return path


def write_sidecar(path: Path, **changes) -> None:
    told = {
        "origin": "built",
        "plan": {"sha256": sidecar.sha256(path), "bytes": path.stat().st_size},
        "onnx": {"name": "model.onnx", "sha256": "0" * 64},
        "backend": "mnn",
        "versions": {},
        "contract": json.loads(CONTRACT.to_json()),
    }
    sidecar.write(path, sidecar.Sidecar(**{**told, **changes}))


def picture(batch: int, height: int, seed: int = 0) -> dict[str, np.ndarray]:
    even = np.random.default_rng(seed).integers(0, 128, (batch, height, 4, 3)) * 2
    return {"picture": even.astype(np.uint8)}


def check(session: Session, feeds: dict[str, np.ndarray]) -> None:
    results = session.run(feeds)
    assert list(results) == ["mean", "doubled"]
    np.testing.assert_array_equal(results["doubled"], feeds["picture"])
    np.testing.assert_allclose(results["mean"], feeds["picture"].mean(axis=(1, 2)), atol=1e-3)
    assert [results[name].dtype for name in results] == [np.float32, np.uint8]


def test_each_shape_is_planned_when_it_comes_and_gives_the_right_answer(mnn_file):
    with Session.open(mnn_file, threads=1) as session:
        assert (session.device, session.contract) == ("cpu", CONTRACT)
        assert session.backend.name.startswith("MNN 3.")
        for seed, (batch, height) in enumerate([(1, 5), (3, 5), (3, 8), (1, 5), (2, 2)]):
            check(session, picture(batch, height, seed))


def test_results_are_the_callers(mnn_file):
    with Session.open(mnn_file, threads=1) as session:
        first = session.run(picture(1, 5, 1))["doubled"]
        kept = first.copy()
        session.run(picture(1, 5, 2))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0


def test_four_threads_with_different_shapes_get_the_serial_answers(mnn_file):
    failures = []
    with Session.open(mnn_file, threads=2) as session:

        def work(number: int) -> None:
            try:
                for turn in range(50):
                    check(session, picture(1 + number, 2 + turn % 3, 100 * number + turn))
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_shape_is_planned_once_as_long_as_it_stays(mnn_file, monkeypatch):
    with Session.open(mnn_file, threads=1) as session:
        planned = []
        plan = session.backend._plan
        monkeypatch.setattr(
            session.backend, "_plan", lambda shapes: planned.append(shapes["picture"]) or plan(shapes)
        )
        for batch, height in [(1, 5), (1, 5), (3, 5), (3, 5), (3, 5), (1, 5)]:
            check(session, picture(batch, height))
    assert planned == [(1, 5, 4, 3), (3, 5, 4, 3), (1, 5, 4, 3)]


def test_stdout_stays_the_commands_own(mnn_file):
    """In a fresh process, since MNN prints when it is imported; with the buffer that stdout has in a pipe."""
    code = (
        "import json, numpy as np; from posewarp.runtime import Session\n"
        f"with Session.open({str(mnn_file)!r}, threads=1) as session:\n"
        "    session.run({'picture': np.zeros((2, 6, 4, 3), np.uint8)})\n"
        "    print(json.dumps(session.device))"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=buffered)
    assert (done.returncode, done.stdout, done.stderr) == (0, '"cpu"\n', "")


def test_what_mnn_said_is_in_the_error_and_not_on_stdout(mnn_file, capfd):
    mnn_file.write_bytes(b"\x00" * 4000)
    write_sidecar(mnn_file)
    with pytest.raises(BackendError, match=r"MNN 3\.\S+ said: Invalidate buffer to create MNN Module"):
        Session.open(mnn_file)
    assert capfd.readouterr() == ("", "")


# Refused, in one line


@pytest.mark.parametrize(
    "content", [b"", b"some text", b"\x00" * 4000, None], ids=["empty", "text", "zeros", "cut"]
)
@pytest.mark.parametrize("told", [True, False], ids=["its side-car", "a side-car that fits"])
def test_what_is_no_whole_mnn_file_is_refused(mnn_file, content, told):
    mnn_file.write_bytes(mnn_file.read_bytes()[:-500] if content is None else content)
    if told:
        with pytest.raises(
            EngineError, match=r"cut short.* build it again: posewarp build model.onnx --backend mnn"
        ):
            Session.open(mnn_file)
    else:
        write_sidecar(mnn_file)
        with pytest.raises(BackendError, match="is not an MNN file, or is cut short"):
            Session.open(mnn_file)


def test_a_file_without_side_car_is_refused(mnn_file):
    sidecar.path_of(mnn_file).unlink()
    with pytest.raises(EngineError, match=r"has no side-car model\.mnn\.json, which holds its contract"):
        Session.open(mnn_file)


def test_the_side_car_of_another_file_is_refused(mnn_file):
    write_sidecar(mnn_file, plan={"sha256": "1" * 64, "bytes": mnn_file.stat().st_size})
    with pytest.raises(EngineError, match="side-car of another engine"):
        Session.open(mnn_file)
    write_sidecar(mnn_file, backend="rtx")
    with pytest.raises(EngineError, match="side-car of a rtx engine, not of MNN's"):
        Session.open(mnn_file)


def test_what_mnn_has_not_is_refused(mnn_file):
    with pytest.raises(BackendError, match="runs on the cpu only"):
        Session.open(mnn_file, device="cuda")
    with pytest.raises(PluginError, match="takes no plugins="):
        Session.open(mnn_file, plugins=["libposewarp_cpu.so"])
    with pytest.raises(ContractError, match="has no output 'halved'"):
        Session.open(mnn_file, extra_outputs=["halved"])
    with Session.open(mnn_file, device="auto", plugins=()) as session:
        assert session.device == "cpu"


def test_a_wrong_input_is_refused_before_mnn_sees_it(mnn_file):
    with (
        Session.open(mnn_file) as session,
        pytest.raises(ContractError, match="has type float32, expected uint8"),
    ):
        session.run({"picture": np.zeros((1, 2, 4, 3), np.float32)})


def test_a_missing_package_says_how_to_get_it(mnn_file, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "MNN":
            raise ImportError("No module named 'MNN'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match=r"MNN cannot be imported .*; pip install posewarp\[mnn\]"):
        Session.open(mnn_file)
