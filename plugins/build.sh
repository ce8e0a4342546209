#!/bin/sh
# Build what this machine can and put it into runtime/lib, where posewarp finds it: `make plugins` calls this.
#
#   TensorRT_ROOT=folder   a TensorRT, or its headers; without it headers are fetched as a wheel, if nvcc is here
#   POSEWARP_CUDA=OFF      the CPU library alone (or 0, no, false)
#
# What did not change is not built again. CMake and pip are taken from PATH, else from $VENV, else installed into
# build/tools.
set -eu
cd "$(dirname "$0")/.."
unset MAKEFLAGS MAKELEVEL MFLAGS # of the make that called; the build starts threads of its own
BUILD=build/plugins
HEADERS=kernel-lens==2.0.1 # carries TensorRT 10.14's headers (Apache-2.0); nothing else of it is used
case $(echo "${POSEWARP_CUDA:-ON}" | tr '[:lower:]' '[:upper:]') in
    OFF | 0 | NO | FALSE) cuda=OFF ;;
    *) cuda=ON ;;
esac
headers=${TensorRT_ROOT:-}
if [ -n "$headers" ] && ! [ -d "$headers" ]; then
    echo "TensorRT_ROOT is $headers, which is no folder; give the folder of a TensorRT, or leave it out" >&2
    exit 1
fi
why="see $BUILD/configure.log"

works() { # a script of an environment that was moved is there, but its interpreter is not
    [ -x "$1" ] && "$1" --version >/dev/null 2>&1
}

tool() { # where a tool is; installed if it is nowhere
    for place in "$(command -v "$1" || true)" "${VENV:-.venv}/bin/$1" "build/tools/bin/$1"; do
        works "$place" && echo "$place" && return
    done
    works build/tools/bin/pip || "${PYTHON:-python3}" -m venv --clear build/tools
    works "build/tools/bin/$1" || build/tools/bin/pip install --quiet --disable-pip-version-check "$1"
    echo "build/tools/bin/$1"
}

configure() { # CUDA ON or OFF; an include folder that was found before is forgotten, TensorRT_ROOT may be another
    "$cmake" -S plugins -B $BUILD -DPOSEWARP_CUDA="$1" -DTensorRT_ROOT="$headers" -UTensorRT_INCLUDE_DIR \
        >$BUILD/configure.log 2>&1
}

# A cache that came along when the folder was copied or moved speaks of the other place, and CMake refuses it.
if [ -f $BUILD/CMakeCache.txt ]; then
    home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' $BUILD/CMakeCache.txt)
    [ "$home" -ef plugins ] || rm -rf $BUILD
fi
mkdir -p $BUILD runtime/lib
cmake=$(tool cmake)
if [ "$cuda" = OFF ]; then
    why="POSEWARP_CUDA is OFF"
elif ! command -v "${CUDACXX:-nvcc}" >/dev/null && ! [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ]; then
    cuda=OFF
    why="no nvcc"
elif [ -z "$headers" ]; then
    if ! [ -d build/headers/kernel_lens ]; then
        echo "fetching the wheel $HEADERS for TensorRT's headers"
        pip=$(tool pip)
        "$pip" download --quiet --disable-pip-version-check --no-deps --dest build/headers $HEADERS &&
            "${PYTHON:-python3}" -m zipfile -e build/headers/*.whl build/headers || true
    fi
    if [ -d build/headers/kernel_lens ]; then
        headers=$PWD/build/headers
    else
        why="TensorRT's headers cannot be fetched; give TensorRT_ROOT=folder"
    fi
fi

if [ "$cuda" = ON ] && ! configure ON; then
    if [ -n "${TensorRT_ROOT:-}" ]; then
        cat $BUILD/configure.log >&2
        exit 1
    fi
    mv $BUILD/configure.log $BUILD/configure-cuda.log
    cuda=OFF
    why="CMake cannot use nvcc here, see $BUILD/configure-cuda.log"
fi
if [ "$cuda" = OFF ] && ! configure OFF; then
    tail -n 20 $BUILD/configure.log >&2
    if grep -qE "No CMAKE_C(XX)?_COMPILER could be found|Could not find( the)? compiler|CXX17" $BUILD/configure.log; then
        echo "CMake failed; make plugins needs a C++17 compiler (Debian: apt install g++)" >&2
    else
        echo "CMake failed, see $BUILD/configure.log" >&2
    fi
    exit 1
fi
rm -f $BUILD/lib/libposewarp_plugins.so # linked again, unless it is of a configuration that was
if ! "$cmake" --build $BUILD --parallel >$BUILD/build.log 2>&1; then
    cat $BUILD/build.log >&2
    exit 1
fi

for library in libposewarp_cpu.so libposewarp_plugins.so; do
    if [ ! -f "$BUILD/lib/$library" ]; then
        rm -f "runtime/lib/$library"
        echo "$library: not built: $why"
        continue
    fi
    if ! cmp -s "$BUILD/lib/$library" "runtime/lib/$library"; then
        cp "$BUILD/lib/$library" "runtime/lib/.$library.new"
        mv "runtime/lib/.$library.new" "runtime/lib/$library" # a process that has the old one open keeps it whole
    fi
    echo "$library: built, in runtime/lib"
done
