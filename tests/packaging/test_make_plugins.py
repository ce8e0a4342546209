"""`make plugins` on bare sources: says of each library what became of it, and builds nothing twice."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import posewarp.runtime
from posewarp.runtime import plugin_library

ROOT = Path(posewarp.runtime.__file__).parents[1]
CPU, TENSORRT = plugin_library.FILES["cpu"], plugin_library.FILES["tensorrt"]

pytestmark = pytest.mark.skipif(
    not (ROOT / "plugins").is_dir(), reason="the package is installed, its sources are elsewhere"
)


@pytest.fixture
def sources(tmp_path) -> Path:
    for name in ("Makefile", "setup.cfg"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("plugins", "tests/plugins"):  # a program for the tests has its source there
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def make_plugins(sources: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POSEWARP_CUDA": "OFF", **variables}
    return subprocess.run(
        ["make", "--silent", "plugins"], cwd=sources, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_builds_the_cpu_library_once_and_says_what_is_left_out(sources):
    done = make_plugins(sources)
    said = f"{CPU}: built, in runtime/lib\n{TENSORRT}: not built: POSEWARP_CUDA is OFF\n"
    assert done.stdout == said, done.stderr
    library = sources / "runtime" / "lib" / CPU
    assert plugin_library.load(library).path == library
    before = library.stat()
    assert make_plugins(sources).stdout == said
    after = library.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.slow
def test_what_was_asked_for_and_is_not_there_is_an_error(sources):
    done = make_plugins(sources, CXX="no-such-compiler", CC="no-such-compiler")
    assert done.returncode != 0
    assert "make plugins needs a C++17 compiler" in done.stderr
    assert not (sources / "runtime" / "lib" / CPU).exists()
    assert "no-such-compiler" in done.stderr  # what CMake said


@pytest.fixture
def configure_only(tmp_path_factory) -> dict[str, str]:
    """Variables with which the build is configured and then not built."""
    cmake = shutil.which("cmake") or pytest.skip("there is no cmake on PATH")
    wrapper = tmp_path_factory.mktemp("bin") / "cmake"
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = --build ] || exec {cmake} "$@"\n')
    wrapper.chmod(0o755)
    return {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_sources_that_were_moved_with_their_build_are_configured_afresh(
    sources, configure_only, tmp_path_factory
):
    assert make_plugins(sources, **configure_only).returncode == 0
    moved = sources.rename(tmp_path_factory.mktemp("elsewhere") / "moved")
    done = make_plugins(moved, **configure_only)
    assert done.returncode == 0, done.stderr
    assert (
        f"CMAKE_HOME_DIRECTORY:INTERNAL={moved}/plugins\n"
        in (moved / "build" / "plugins" / "CMakeCache.txt").read_text()
    )


@pytest.mark.slow
def test_failure_that_is_not_the_compilers_shows_the_log(sources, configure_only):
    (sources / "plugins" / "CMakeLists.txt").write_text('message(FATAL_ERROR "no such day")\n')
    done = make_plugins(sources, **configure_only)
    assert done.returncode != 0
    assert "no such day" in done.stderr
    assert "needs a C++17 compiler" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("word", ["off", "0", "no", "false"])
def test_cuda_is_left_out_whatever_the_word_for_off(sources, configure_only, word):
    done = make_plugins(sources, POSEWARP_CUDA=word, **configure_only)
    assert f"{TENSORRT}: not built: POSEWARP_CUDA is OFF" in done.stdout, done.stderr


def test_tensorrt_root_that_is_no_folder_is_refused_at_once(sources):
    done = make_plugins(sources, POSEWARP_CUDA="ON", TensorRT_ROOT=str(sources / "gone"))
    assert done.returncode != 0
    assert done.stderr.startswith(f"TensorRT_ROOT is {sources}/gone, which is no folder")
    assert not (sources / "build").exists()
