"""What a figure depends on besides the code: the machine, its load, and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from posewarp.benchmarks.harness.contenders import cuda_missing
from posewarp.runtime.threads import available_cpus

_PACKAGES = (
    "posewarp",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "openvino",
    "MNN",
    "tensorrt",
)


def machine() -> dict[str, object]:
    """What must be equal for two runs to be compared."""
    return {
        "cpu": cpu_name(),
        "cpus_allowed": available_cpus(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpu": _gpu(),
    }


def surroundings() -> dict[str, object]:
    """What is told besides."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((row.split(": ", 1)[1] for row in lines if row.startswith("model name")), platform.machine())


def _memory_gib() -> int | None:
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    if not all(name in getattr(os, "sysconf_names", {}) for name in names):
        return None
    return round(os.sysconf(names[0]) * os.sysconf(names[1]) / 2**30)


def _gpu() -> str:
    """Name and driver of the first card, or why there is none."""
    if missing := cuda_missing():
        return missing
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    return _output(query) or "unknown (nvidia-smi does not answer)"


def _commit() -> str | None:
    """Of the checkout that this file lies in; None where it is none."""
    folder = str(Path(__file__).parent)
    commit = _output(["git", "-C", folder, "rev-parse", "--short=12", "HEAD"])
    changed = commit and _output(["git", "-C", folder, "status", "--porcelain", "--untracked-files=no"])
    return f"{commit} with changes" if changed else commit


def _output(arguments: list[str]) -> str | None:
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
