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
