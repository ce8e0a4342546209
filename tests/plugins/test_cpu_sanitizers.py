"""AddressSanitizer and UndefinedBehaviorSanitizer watch random calls of the CPU library (fuzz.cpp)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZERS = "address,undefined,float-cast-overflow"  # the last: a cast of NaN or 1e19 to an integer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """``build(sanitizers, root=ROOT) -> Path``: the fuzzing program."""

    def build(sanitizers: str, root: Path = ROOT) -> Path:
        folder = tmp_path_factory.mktemp("sanitized")
        configure = [
            "cmake",
            "-S",
            root / "plugins" / "cpu",
            "-B",
            folder,
            "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        ]
        subprocess.run([*configure, f"-DPOSEWARP_SANITIZE={sanitizers}"], check=True, capture_output=True)
        command = ["cmake", "--build", folder, "--parallel", "2", "--target", "posewarp_cpu_fuzz"]
        subprocess.run(command, check=True, capture_output=True)
        return folder / "bin" / "posewarp_cpu_fuzz"

    return build


@pytest.fixture(scope="module")
def fuzz(build):
    return build(SANITIZERS)


def run(program: Path, *arguments: str, simd: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POSEWARP_CPU_SIMD": simd}
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("simd", ["", "avx2", "portable"])
def test_random_calls_are_clean(fuzz, simd):
    done = run(fuzz, "1", "5000", simd=simd)
    assert done.returncode == 0, done.stderr
    assert "5000 calls" in done.stdout


def test_features_a_pixel_short_are_reported(fuzz):
    done = run(fuzz, "1", "100", "planted")
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize(
    ("file", "guard", "broken", "report"),
    [
        ("core/grid_sample.h", "return index < size ? index : -1;", "return index;", "AddressSanitizer"),
        ("core/grid_sample.h", "x >= -1.0F && x <= static_cast<float>(size)", "x != -2.0F", "runtime error"),
        ("cpu/winograd.h", "4 * 6 * run(lanes) + lanes", "4 * 6 * rows * columns", "AddressSanitizer"),
        ("cpu/lanes.inl", "(index < static_cast<int32_t>(size))", "(index < INT32_MAX)", "AddressSanitizer"),
    ],
    ids=["size", "cast", "scratch", "size of vectors"],
)
def test_code_without_its_guards_is_reported(build, tmp_path, file, guard, broken, report):
    for folder in ("plugins", "tests/plugins"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    source = tmp_path / "plugins" / file
    assert source.read_text().count(guard) == 1
    source.write_text(source.read_text().replace(guard, broken))
    done = run(build(SANITIZERS, tmp_path), "1", "1000")
    assert done.returncode != 0
    assert report in done.stderr


def test_threads_are_clean_under_thread_sanitizer(build):
    done = run(build("thread"), "1", "3000")
    assert done.returncode == 0, done.stderr
