"""Importing the runtime stays light. Checked in fresh interpreters, since pytest itself has imported much."""

from __future__ import annotations

import subprocess
import sys

import pytest

import posewarp.runtime
from posewarp.runtime import errors

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "typer",
    "rich",
    "cv2",
    "tensorrt",
    "cuda",
    "pycuda",
    "cupy",
)
LIBRARIES = ("libcud", "libcublas", "libnvinfer", "libtorch", "libonnx")
# All public names are touched: they are imported at first use.
IMPORT_ALL = "import posewarp.runtime as runtime; [getattr(runtime, name) for name in runtime.__all__]"
CHECK = f"""
import sys
loaded = sorted(set({HEAVY}) & {{name.partition(".")[0] for name in sys.modules}})
with open("/proc/self/maps") as maps:
    files = {{line.split("/")[-1].strip() for line in maps}}
loaded += sorted(name for name in files if name.startswith({LIBRARIES}))
print(*loaded)
"""


def heavy_after(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code + CHECK], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_importing_the_runtime_brings_in_nothing_heavy():
    assert heavy_after(IMPORT_ALL) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_that_check_can_fail(tmp_path):
    assert "onnxruntime" in heavy_after(IMPORT_ALL + "; import onnxruntime")
    # A library file of that name is seen too, where no module is.
    library = tmp_path / "libcudart.so.13"
    library.write_bytes(b"x")
    code = f"import mmap; file = open({str(library)!r}, 'r+b'); mapped = mmap.mmap(file.fileno(), 1)"
    assert heavy_after(code) == ["libcudart.so.13"]


def best_of_3(clock: str, code: str) -> float:
    timed = f"import time; start = time.{clock}(); {code}; print(time.{clock}() - start)"
    runs = [subprocess.run([sys.executable, "-c", timed], capture_output=True, check=True) for _ in range(3)]
    return min(float(run.stdout) for run in runs)


def test_import_takes_less_than_0_3_seconds():
    assert best_of_3("perf_counter", "import posewarp.runtime") < 0.3
    # What is imported at first use is counted in CPU time, since numpy's import doubles on a busy machine.
    assert best_of_3("process_time", IMPORT_ALL) < 0.3


def test_errors_are_there_without_numpy():
    code = "import sys; from posewarp.runtime import DataError; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_every_public_name_is_there_and_every_error_is_public():
    for name in posewarp.runtime.__all__:
        assert hasattr(posewarp.runtime, name)
        assert name in dir(posewarp.runtime)
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        posewarp.runtime.torch  # noqa: B018
    family = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert family <= set(posewarp.runtime.__all__)
