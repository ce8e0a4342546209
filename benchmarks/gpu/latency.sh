#!/usr/bin/env bash
# Contenders on the GPU, in turn: latency.sh "cuda fp32" 1,8. Rows of batches that were finished stay if it is cut off.
set -euo pipefail

files=("$WORK"/networks/deepfashion.{safetensors,onnx})
for file in "$WORK"/networks/deepfashion{.cpu.onnx,.fp16.onnx,.engine,.fp16.engine}; do
    [ ! -f "$file" ] || files+=("$file")
done
bash benchmarks/gpu/with_cuda.sh "$PYTHON" benchmarks/latency.py "${files[@]}" --only "$1" --batch-size "$2" --rounds 6 \
    -o "$STEP"
