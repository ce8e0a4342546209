"""The build of the CUDA kernels and the TensorRT plugin, with the programs that check them."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.plugins.sampling import sampler  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "plugins"  # as `make plugins` configured it


@pytest.fixture(scope="session")
def build_target():
    """``build_target(name)``: builds a target of CMake's; what is built already costs nothing."""
    if not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()):
        pytest.skip("no nvcc, so no CUDA kernels")
    cache = BUILD / "CMakeCache.txt"
    settings = dict(re.findall(r"^(\w+):\w+=(.*)$", cache.read_text(), re.M)) if cache.exists() else {}
    if settings.get("TensorRT_INCLUDE_DIR", "NOTFOUND").endswith("NOTFOUND"):
        pytest.skip("no TensorRT headers in build/plugins, so no TensorRT plugin: run `make plugins`")
    command = [settings["CMAKE_COMMAND"], "--build", BUILD, "--parallel", "2", "--target"]

    def build(name: str) -> None:
        with open(BUILD / "tests.lock", "w") as lock:  # pytest-xdist has several processes here
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run([*command, name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return build


@pytest.fixture(scope="session")
def cuda_build(build_target) -> Path:
    """Folder of the build: libposewarp_plugins.so in ``lib``, the checking programs in ``bin``."""
    build_target("posewarp_plugins")
    build_target("posewarp_checks")
    return BUILD


@pytest.fixture(scope="session")
def run_program(cuda_build):
    """``run_program(name, environment={}) -> str``: what a program printed; it must exit with 0."""

    def run(name: str, environment: Mapping[str, str] = MappingProxyType({})) -> str:
        done = subprocess.run(
            [cuda_build / "bin" / name], capture_output=True, text=True, env={**os.environ, **environment}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
