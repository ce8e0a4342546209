"""The CUDA kernels: run in emulation everywhere, on the table of cases where a GPU is, and what they may call."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from posewarp.benchmarks.warp_cuda import run_program as run_program_of_benchmark
from posewarp.runtime.errors import PluginError

ROOT = Path(__file__).parents[2]
KERNELS = "cuda/CMakeFiles/posewarp_cuda.dir/grid_sample.cu.o"
PLUGIN = "tensorrt/CMakeFiles/posewarp_plugins.dir/mixed_grid_sample.cpp.o"
PROGRAM = "cuda/CMakeFiles/posewarp_device.dir/device.cpp.o"  # allocates and waits, as a program may

# Launching and naming an error is all; __cuda... registers the kernels at load time.
ALLOWED = {"cudaLaunchKernelExC", "cudaGetErrorString"}


@pytest.fixture(scope="session")
def gpu(run_program):
    if "no CUDA driver" in run_program("posewarp_cuda_check"):
        pytest.skip("no CUDA driver")


def cuda_calls(object_file: Path) -> set[str]:
    """Functions of the CUDA runtime or driver that an object file refers to."""
    listed = subprocess.run(
        ["nm", "--undefined-only", object_file], capture_output=True, text=True, check=True
    )
    return set(re.findall(r" U (cu[A-Z]\w+|cuda\w+)", listed.stdout))


def fat_binary(library: Path) -> set[tuple[str, int]]:
    """("elf" | "ptx", compute capability) of each code in a library's fat binaries."""
    data, found = library.read_bytes(), set()
    for start in (match.start() for match in re.finditer(b"\x50\xed\x55\xba", data)):
        header_bytes, size = struct.unpack_from("<HQ", data, start + 6)
        at = start + header_bytes
        while at < start + header_bytes + size:
            kind, _, entry_bytes, code_bytes = struct.unpack_from("<HHIQ", data, at)
            found.add(({1: "ptx", 2: "elf"}[kind], *struct.unpack_from("<I", data, at + 28)))
            at += entry_bytes + code_bytes
    return found


@pytest.mark.parametrize("blocks", ["", "1"])
def test_emulated_kernels_equal_the_core(run_program, blocks):
    """With one block in each direction, a launch's strides must cover everything."""
    environment = {"POSEWARP_EMULATED_BLOCKS": blocks} if blocks else {}
    printed = run_program("posewarp_cuda_check_emulated", environment)
    assert re.fullmatch(r"kernels, emulated: [1-9]\d\d+ cases, 0 failed\n", printed)


@pytest.mark.gpu
def test_kernels_equal_the_core_on_the_gpu(run_program, gpu):
    printed = run_program("posewarp_cuda_check")
    assert re.fullmatch(r"kernels: [1-9]\d\d+ cases, 0 failed\n", printed)


@pytest.mark.parametrize("object_file", [KERNELS, PLUGIN])
def test_what_enqueue_reaches_neither_allocates_nor_waits(cuda_build, object_file):
    assert cuda_calls(cuda_build / object_file) <= ALLOWED


def test_the_check_for_allocation_sees_one(cuda_build):
    assert cuda_calls(cuda_build / PROGRAM) >= {"cudaMalloc", "cudaStreamSynchronize"}


def test_kernel_file_uses_no_heap(cuda_build):
    listed = subprocess.run(
        ["nm", "-C", "--undefined-only", cuda_build / KERNELS], capture_output=True, text=True, check=True
    )
    assert not re.search(r"operator (new|delete)|malloc|free\b", listed.stdout)


def test_enqueue_itself_uses_no_heap(cuda_build):
    listed = subprocess.run(
        ["objdump", "-dr", "-C", "--no-show-raw-insn", cuda_build / PLUGIN],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    bodies = dict(
        re.findall(r"^\w+ <posewarp::MixedGridSample::(\w+)\(.*?>:\n(.*?)(?=\n\n|\Z)", listed, re.M | re.S)
    )
    assert "launchGridSample" in bodies["enqueue"]
    assert "operator new" not in bodies["enqueue"]
    assert "operator new" in bodies["clone"]  # so one would be seen


@pytest.mark.parametrize("source", ["cuda/grid_sample.cu", "tensorrt/mixed_grid_sample.cpp"])
def test_source_names_no_call_that_allocates_copies_or_waits(source):
    text = (ROOT / "plugins" / source).read_text()
    forbidden = (
        r"cuda\w*(Malloc|Free|Memcpy|Memset|Synchronize|Create|Destroy|Query|DeviceReset)|cudaStream\w+\("
    )
    assert re.findall(forbidden, text) == []


def test_library_has_code_for_every_architecture_nvcc_knows_and_ptx_of_the_newest(cuda_build):
    listed = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = {int(number) for number in re.findall(r"compute_(\d+)", listed)}
    found = fat_binary(cuda_build / "lib" / "libposewarp_plugins.so")
    assert {number for kind, number in found if kind == "elf"} == {number for number in known if number >= 75}
    assert {number for kind, number in found if kind == "ptx"} == {max(known)}


def test_benchmark_says_that_nothing_was_measured_without_a_gpu(cuda_build):
    done = subprocess.run(
        [sys.executable, "benchmarks/warp_cuda.py"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "not measured: no CUDA driver\n" or "cuDNN" in done.stdout


def test_benchmark_without_its_program_says_how_to_build_it(tmp_path):
    with pytest.raises(PluginError, match="build it: make plugins && cmake"):
        run_program_of_benchmark(tmp_path / "none")


@pytest.mark.gpu
@pytest.mark.slow
def test_compute_sanitizer_finds_nothing(cuda_build, gpu):
    if not shutil.which("compute-sanitizer"):
        pytest.skip("no compute-sanitizer")
    command = ["compute-sanitizer", "--error-exitcode", "9", cuda_build / "bin" / "posewarp_plugin_contract"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("standard", ["17", "20"])
def test_kernels_compile_as_cpp(cuda_build, tmp_path, standard):
    options = [f"-std=c++{standard}", "-arch=sm_75", "-Werror=all-warnings", "-I", ROOT / "plugins"]
    command = ["nvcc", *options, "-c", ROOT / "plugins/cuda/grid_sample.cu", "-o", tmp_path / "kernels.o"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_emulated_kernels_read_and_write_within_their_buffers(build_target, run_program):
    build_target("posewarp_cuda_check_sanitized")
    # Coroutines have stacks of their own, which AddressSanitizer's check of returned frames takes for faults.
    printed = run_program(
        "posewarp_cuda_check_sanitized", {"ASAN_OPTIONS": "detect_stack_use_after_return=0"}
    )
    assert "cases, 0 failed" in printed
