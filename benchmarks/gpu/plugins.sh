#!/usr/bin/env bash
# The plugin libraries, the programs that check them, and the kernel as a library that Python can call (launch.cpp).
set -euo pipefail

for wheel in "$WHEELS"/kernel_lens-*.whl; do
    [ ! -f "$wheel" ] || "$MACHINE_PYTHON" -m zipfile -e "$wheel" build/headers # where `make plugins` looks for them
done
export CUDAARCHS=${COMPUTE_CAPABILITY/./}-real # of this card alone: each further one is compiled for itself
# Without headers `make` would look for them in the network.
PIP_NO_INDEX=1 make plugins VENV="$ENVIRONMENT" PYTHON="$MACHINE_PYTHON"
if ! [ -f runtime/lib/libposewarp_plugins.so ]; then
    echo "no TensorRT plugin was built, see above; its headers come with the wheel kernel-lens, or by TensorRT_ROOT"
    exit 1
fi
cmake --build build/plugins --parallel --target posewarp_checks
bash benchmarks/gpu/launch.sh build/plugins
