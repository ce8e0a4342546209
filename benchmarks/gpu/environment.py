"""What the environment has: versions into a JSON file; exit 1 and one line if something is not there that steps need.

python benchmarks/gpu/environment.py environment.json
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# By the name that is imported, and the name of the wheel to carry.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "PIL": "pillow",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "safetensors": "safetensors",
    "typer": "typer",
    "rich": "rich",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "cuda.bindings": "cuda-bindings",
    "posewarp.runtime": "posewarp",
}
# Measured where they are; onnxruntime-gpu lies over onnxruntime.
OPTIONAL = (
    "onnxruntime-gpu",
    "pycuda",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "tensorrt-lean-cu13-bindings",
    "triton",
)


def is_there(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would lie in
        return False


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Of the distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(path: str) -> None:
    """Write the versions to ``path``, and exit with 1 if something is missing."""
    found = {"python": sys.version.split()[0], **versions((*NEEDED.values(), *OPTIONAL))}
    Path(path).write_text(json.dumps(found, indent=1) + "\n")
    print(", ".join(f"{name} {version}" for name, version in found.items()))
    if missing := [wheel for module, wheel in NEEDED.items() if not is_there(module)]:
        sys.exit(f"not here: {', '.join(missing)}; carry their wheels and give --wheels")


if __name__ == "__main__":
    main(sys.argv[1])
