#!/bin/sh
# Build what this machine can and put it into runtime/lib, where posewarp finds it: `make plugins` calls this.
#
#   TensorRT_ROOT=folder   headers of a TensorRT; without it they are fetched as a wheel, if nvcc is here
#   POSEWARP_CUDA=OFF      the CPU library alone
#
# What was built before and did not change is not built again. cmake and pip are taken from PATH, else from $VENV, else
# installed into build/tools.
set -eu
cd "$(dirname "$0")/.."
unset MAKEFLAGS MAKELEVEL # of the make that called: the build has threads of its own
BUILD=build/plugins
VENV=${VENV:-.venv}
HEADERS=kernel-lens==2.0.1 # carries TensorRT 10.14's headers (Apache-2.0); nothing else of it is used
CUDA=${POSEWARP_CUDA:-ON}
why="TensorRT_ROOT holds no headers"

tool() { # tool NAME: where it is; installed if it is nowhere
    command -v "$1" || { [ -x "$VENV/bin/$1" ] && echo "$VENV/bin/$1"; } || {
        [ -x build/tools/bin/pip ] || "${PYTHON:-python3}" -m venv build/tools
        [ -x "build/tools/bin/$1" ] || build/tools/bin/pip install --quiet --disable-pip-version-check "$1" >&2
        echo "build/tools/bin/$1"
    }
}

mkdir -p $BUILD runtime/lib
cmake=$(tool cmake)
if [ "$CUDA" = OFF ]; then
    why="POSEWARP_CUDA is OFF"
elif ! command -v "${CUDACXX:-nvcc}" >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    CUDA=OFF
    why="no nvcc"
elif [ -z "${TensorRT_ROOT:-}" ]; then
    TensorRT_ROOT=$PWD/build/headers
    if ! [ -d "$TensorRT_ROOT/kernel_lens" ]; then
        echo "fetching TensorRT's headers ($HEADERS)"
        if pip=$(tool pip) && "$pip" download --quiet --disable-pip-version-check --no-deps -d build/headers $HEADERS
        then
            "${PYTHON:-python3}" -m zipfile -e build/headers/*.whl build/headers
        else
            CUDA=OFF
            why="TensorRT's headers cannot be fetched; give TensorRT_ROOT=folder"
        fi
    fi
fi

configure() {
    "$cmake" -S plugins -B $BUILD -DPOSEWARP_CUDA="$1" -DTensorRT_ROOT="${TensorRT_ROOT:-}" >$BUILD/configure.log 2>&1
}
if [ "$CUDA" = ON ] && ! configure ON; then
    cp $BUILD/configure.log $BUILD/configure-cuda.log
    CUDA=OFF
    why="CMake cannot use nvcc or the headers here, see $BUILD/configure-cuda.log"
fi
if [ "$CUDA" = OFF ] && ! configure OFF; then
    cat $BUILD/configure.log >&2
    echo "make plugins needs a C++17 compiler (Debian: apt install g++)" >&2
    exit 1
fi
if ! "$cmake" --build $BUILD --parallel >$BUILD/build.log 2>&1; then
    cat $BUILD/build.log >&2
    exit 1
fi

for library in libposewarp_cpu.so libposewarp_plugins.so; do
    if [ -f "$BUILD/lib/$library" ] && { [ "$CUDA" = ON ] || [ $library = libposewarp_cpu.so ]; }; then
        # Renamed into place: a process that has the old one open keeps it whole.
        if ! cmp -s "$BUILD/lib/$library" "runtime/lib/$library"; then
            cp "$BUILD/lib/$library" "runtime/lib/.$library.new"
            mv "runtime/lib/.$library.new" "runtime/lib/$library"
        fi
        echo "$library: built, in runtime/lib"
    else
        rm -f "runtime/lib/$library"
        echo "$library: not built: $why"
    fi
done
