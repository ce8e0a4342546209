#!/usr/bin/env bash
# Run a command that finds CUDA's libraries of the machine's PyTorch, which ONNX Runtime's CUDA provider wants.
set -euo pipefail
libraries=$("$MACHINE_PYTHON" -c 'import sys; from pathlib import Path
print(*(lib for p in sys.path if p.endswith("-packages") for lib in Path(p).glob("nvidia/*/lib")), sep=":")')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$@"
