#!/usr/bin/env bash
# Build libposewarp_launch.so, the kernels behind one C function, from a build of `make plugins`: launch.sh build/plugins
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc --shared --cudart static --std=c++17 --compiler-options -fPIC --include-path plugins \
    --output-file "$1/lib/libposewarp_launch.so" benchmarks/gpu/launch.cpp "$1/cuda/libposewarp_cuda.a"
