"""The wheel: with built libraries it is for one platform and carries them, without it is for any."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import posewarp.runtime
from posewarp.runtime import plugin_library

ROOT = Path(posewarp.runtime.__file__).parents[1]
CPU, TENSORRT = plugin_library.FILES["cpu"], plugin_library.FILES["tensorrt"]

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.cfg").exists(), reason="the package is installed, its sources are elsewhere"
)


@pytest.fixture
def sources(tmp_path) -> Path:
    """The files that a wheel is made of, without what was built."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("models", "export", "runtime", "benchmarks", "cli"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "lib"))
    return copy


def build_wheel(sources: Path, folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", sources / folder, sources], cwd=sources, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (sources / folder).glob("*.whl")
    return wheel


def libraries_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if name.endswith(".so"))


@pytest.mark.slow
def test_wheel_carries_what_is_built_and_its_tag_tells(sources):
    built = plugin_library.find("cpu")
    assert built is not None, "run `make plugins` first"
    folder = sources / "runtime" / "lib"
    folder.mkdir()
    for name in (CPU, TENSORRT):
        shutil.copy(built, folder / name)
    wheel = build_wheel(sources, "both")
    assert libraries_in(wheel) == [f"posewarp/runtime/lib/{name}" for name in (CPU, TENSORRT)]

    # Built again from the same folder, in which build/ keeps what there was.
    (folder / TENSORRT).unlink()
    wheel = build_wheel(sources, "one")
    assert libraries_in(wheel) == [f"posewarp/runtime/lib/{CPU}"]
    python, abi, platform = wheel.stem.split("-")[-3:]
    assert (python, abi) == ("py3", "none")  # the library knows no Python
    assert platform.startswith(("linux_", "manylinux"))

    shutil.rmtree(folder)
    wheel = build_wheel(sources, "none")
    assert libraries_in(wheel) == []
    assert wheel.name.endswith("-py3-none-any.whl")
