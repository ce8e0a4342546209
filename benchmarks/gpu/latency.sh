#!/usr/bin/env bash
# One type's contenders on the GPU, in turn: latency.sh fp32 1,8. Rows of heats that were finished stay if it is cut off.
set -euo pipefail

# CUDA's libraries of the machine's PyTorch, which ONNX Runtime's CUDA provider looks for beside itself.
libraries=$("$MACHINE_PYTHON" -c 'import sys; from pathlib import Path
print(*(lib for p in sys.path if p.endswith("-packages") for lib in Path(p).glob("nvidia/*/lib")), sep=":")')
export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

engines=()
for engine in "$WORK"/engines/deepfashion*.engine; do
    [ ! -f "$engine" ] || engines+=("$engine")
done
"$PYTHON" benchmarks/latency.py deepfashion "${engines[@]}" --only "cuda $1" --batch-size "$2" --rounds 10 -o "$STEP"
