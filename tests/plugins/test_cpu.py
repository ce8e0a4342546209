"""The CPU library's C ABI: versions, refusals, threads, forks; nothing but its functions leaves it."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from posewarp.runtime import plugin_library

ROOT = Path(__file__).parents[2]
OK, NULL_POINTER, UNKNOWN_DTYPE, BAD_ARGUMENT = 0, 1, 2, 3


@pytest.fixture(scope="module")
def path() -> Path:
    found = plugin_library.find("cpu")
    assert found is not None, "run `make plugins` first"
    return found


@pytest.fixture(scope="module")
def call(path):
    """``call(**changes)``: the code that posewarp_grid_sample returns for a good call with changes."""
    function = ctypes.CDLL(str(path)).posewarp_grid_sample
    features, grid = np.ones((2, 3, 1, 4, 5), np.float32), np.zeros((2, 1, 6, 7, 3), np.float32)
    output = np.empty((2, 3, 1, 6, 7), np.float32)
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    good = {
        "features": pointer(features.ctypes.data),
        "dtype": number(0),
        "grid": pointer(grid.ctypes.data),
        "output": pointer(output.ctypes.data),
        "spatial_rank": number(2),
        "batch": size(2),
        "channels": size(3),
        "depth": size(1),
        "height": size(4),
        "width": size(5),
        "out_depth": size(1),
        "out_height": size(6),
        "out_width": size(7),
        "mode": number(0),
        "padding": number(0),
        "align_corners": number(0),
        "threads": number(1),
    }

    def call(**changes: int | None) -> int:
        arguments = {**good, **{name: type(good[name])(value) for name, value in changes.items()}}
        return function(*arguments.values())

    # The arrays live as long as the function that points to them.
    call.arrays = (features, grid, output)
    return call


def test_good_call_succeeds(call):
    assert call() == OK
    assert call(threads=0) == OK
    assert call(threads=1000) == OK


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"features": None}, NULL_POINTER),
        ({"grid": None}, NULL_POINTER),
        ({"output": None}, NULL_POINTER),
        ({"dtype": 3}, UNKNOWN_DTYPE),
        ({"dtype": -1}, UNKNOWN_DTYPE),
        ({"mode": 3}, BAD_ARGUMENT),
        ({"mode": -1}, BAD_ARGUMENT),
        ({"padding": 3}, BAD_ARGUMENT),
        ({"spatial_rank": 1}, BAD_ARGUMENT),
        ({"spatial_rank": 4}, BAD_ARGUMENT),
        ({"spatial_rank": 3, "mode": 2}, BAD_ARGUMENT),
        ({"depth": 2}, BAD_ARGUMENT),
        ({"out_depth": 2}, BAD_ARGUMENT),
        ({"batch": -1}, BAD_ARGUMENT),
        ({"out_width": -1}, BAD_ARGUMENT),
        ({"height": 0}, BAD_ARGUMENT),
        ({"width": 0}, BAD_ARGUMENT),
    ],
    ids=str,
)
def test_bad_calls_are_refused_with_a_code(call, changes, code):
    assert call(**changes) == code


@pytest.mark.parametrize("empty", ["batch", "channels", "out_height", "out_width"])
def test_empty_output_needs_no_memory(call, empty):
    assert call(**{empty: 0}, features=None, grid=None, output=None) == OK
    assert call(**{empty: 0}, height=0, features=None, grid=None, output=None) == OK


def make_case(seed: int, shape=(2, 37, 40, 30)):
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, shape).astype(np.float32)
    return features, rng.uniform(-1, 1, (shape[0], *shape[2:], 2)).astype(np.float32)


def test_result_does_not_depend_on_the_number_of_threads(sampler):
    features, grid = make_case(0)
    alone = sampler(features, grid, threads=1)
    for threads in (2, 3, 16):
        for _ in range(20):
            np.testing.assert_array_equal(sampler(features, grid, threads=threads), alone)


def test_calls_from_several_threads_do_not_disturb_each_other(sampler):
    given = [make_case(seed) for seed in range(8)]
    serial = [sampler(*case, threads=1) for case in given]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda case: sampler(*case, threads=3), given * 10))
    for result, expected in zip(results, serial * 10, strict=True):
        np.testing.assert_array_equal(result, expected)


def test_batch_of_three_equals_three_singles(sampler):
    features, grid = make_case(1, (3, 11, 20, 30))
    together = sampler(features, grid)
    for i in range(3):
        np.testing.assert_array_equal(together[i : i + 1], sampler(features[i : i + 1], grid[i : i + 1]))


FORK = """
import os, sys, threading
import numpy as np
from posewarp.runtime import plugin_library

library = plugin_library.load(sys.argv[1])
features, grid = np.random.rand(2, 64, 40, 30).astype("f"), np.random.rand(2, 40, 30, 2).astype("f")
sample = lambda: plugin_library.grid_sample(features, grid, threads=2, library=library)
expected = sample()
child = os.fork()
if child == 0:
    os._exit(0 if all((sample() == expected).all() for _ in range(50)) else 3)
assert os.waitpid(child, 0)[1] == 0
assert (sample() == expected).all()
"""


def test_forked_process_samples_too(path):
    subprocess.run([sys.executable, "-c", FORK, path], check=True, timeout=60)


def test_only_the_promised_functions_are_exported(path):
    listed = subprocess.run(["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True)
    promised = {"posewarp_cpu_version", "posewarp_cpu_simd", "posewarp_grid_sample", "RegisterCustomOps"}
    assert set(re.findall(r" \w (\w+)\b", listed.stdout)) <= promised


@pytest.mark.slow
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_code_for_newer_cpus_shares_no_function_with_other_files(tmp_path, optimise):
    # A weak function in it could be the copy that the linker keeps for everyone: an illegal instruction elsewhere.
    flags = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-Wno-psabi", "-mavx2", "-mfma", "-mf16c"]
    source = ROOT / "plugins" / "cpu" / "kernels_avx2.cpp"
    subprocess.run(["g++", *flags, optimise, "-c", source, "-o", tmp_path / "kernels.o"], check=True)
    listed = subprocess.run(["nm", "-C", tmp_path / "kernels.o"], capture_output=True, text=True, check=True)
    assert re.findall(r"^\w+ [TD] (.*)", listed.stdout, re.M) == ["posewarp::cpu::kAVX2"]
    assert re.findall(r"^\w+ [WVu] (?!DW.ref)(.*)", listed.stdout, re.M) == []
