#!/usr/bin/env bash
# All that needs a GPU, in one command and under 9 minutes, on a bare machine without a network (docs/gpu.md).
set -euo pipefail

usage() {
    cat <<'END'
bash benchmarks/gpu.sh [--wheels DIR] [--networks DIR] [-o DIR] [--commit TEXT] [--steps FILE] [--dry-run]

  --wheels DIR   wheels that this machine lacks; large ones in parts, see benchmarks/gpu/wheels.sh
  --networks DIR what benchmarks/gpu/networks.py made before; by default it is made here, a minute without the GPU
  -o DIR         for CARD-DATE.json and CARD-DATE.logs.tar.gz; by default benchmarks/results/gpu
  --commit TEXT  what was measured, where the sources came without git
  --steps FILE   other steps than benchmarks/gpu/steps.txt
  --dry-run      print the steps and their limits, and run none

PYTHON names the Python that has PyTorch, by default python3. Exit 0: no step failed; 1: one did, or there is no GPU.
END
}

die() { # exit code, message
    echo "gpu.sh: $2" >&2
    exit "$1"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=$root/benchmarks/results/gpu
steps=$root/benchmarks/gpu/steps.txt
given='' networks='' commit='' dry=''
readonly BUDGET_S=${POSEWARP_GPU_BUDGET_S:-520} # 9 minutes, less what starting and packing take
[[ $BUDGET_S =~ ^[0-9]+$ ]] || die 2 "POSEWARP_GPU_BUDGET_S is $BUDGET_S; expected seconds"
while [ $# -gt 0 ]; do
    case $1 in
        --wheels | --networks | -o | --output | --commit | --steps) [ $# -gt 1 ] || die 2 "$1 needs a value" ;;
    esac
    case $1 in
        --wheels) given=$(realpath -m -- "$2") && shift ;;
        --networks) networks=$(realpath -m -- "$2") && shift ;;
        -o | --output) output=$(realpath -m -- "$2") && shift ;;
        --commit) commit=$2 && shift ;;
        --steps) steps=$(realpath -m -- "$2") && shift ;;
        --dry-run) dry=yes ;;
        -h | --help) usage && exit 0 ;;
        *) die 2 "no option $1; see --help" ;;
    esac
    shift
done
[ -z "$given" ] || [ -d "$given" ] || die 2 "--wheels $given is no folder"
[ -z "$networks" ] || [ -f "$networks/deepfashion.half.onnx" ] || # the last that is made
    die 2 "--networks $networks does not hold them; make them: python -m posewarp.benchmarks.gpu.networks $networks"
[ -f "$steps" ] || die 2 "--steps $steps is no file"

each_step() { # a function, called with each step's name, limit and command
    local name limit command
    while IFS='|' read -r name limit command; do
        name=${name// /} limit=${limit// /}
        [ -z "$name" ] || "$1" "$name" "$limit" "${command# }"
    done < <(grep -v '^#' "$steps")
}

show() {
    printf '%-12s at most %3d s: %s\n' "$1" "$2" "$3"
}

if [ -n "$dry" ]; then
    each_step show
    echo "all together at most $BUDGET_S s"
    exit 0
fi

command -v nvidia-smi >/dev/null || die 1 "no NVIDIA GPU here, nothing was measured: there is no nvidia-smi on PATH"
if ! card=$(nvidia-smi --id=0 --format=csv,noheader,nounits \
    --query-gpu=name,driver_version,compute_cap,memory.total 2>&1); then
    die 1 "no NVIDIA GPU here, nothing was measured: ${card%%$'\n'*}"
fi
IFS=',' read -r name driver capability memory <<<"$card"
mkdir -p "$output" || die 1 "$output cannot be made"

MACHINE_PYTHON=$(command -v "${PYTHON:-python3}") || die 1 "no ${PYTHON:-python3} on PATH"
WORK=$(mktemp -d)
step_pid=''
stop() { # exit code; a step is in a process group of its own, which nothing else would end
    [ -z "$step_pid" ] || kill "$step_pid" 2>/dev/null || true
    wait
    exit "$1"
}
trap 'rm -rf "$WORK"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM HUP
export MACHINE_PYTHON WORK GIVEN_WHEELS=$given GIVEN_NETWORKS=$networks WHEELS=$WORK/wheels ENVIRONMENT=$WORK/environment
export PYTHON=$ENVIRONMENT/bin/python COMPUTE_CAPABILITY=${capability# }
scripts=$("$MACHINE_PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))') # cmake may be there
export PATH=$ENVIRONMENT/bin:$PATH:/usr/local/cuda/bin:$scripts
mkdir -p "$WHEELS" "$WORK/steps"
cd "$root"

if [ -z "$commit" ]; then
    commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
    [ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit="$commit with changes"
fi
cuda=$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p') || cuda=unknown
date=$(date -u +%Y-%m-%d)
printf '%s\t%s\n' card "$name" driver "${driver# }" compute_capability "$COMPUTE_CAPABILITY" \
    memory_mib "${memory# }" cuda "$cuda" commit "$commit" date "$date" >"$WORK/machine.tsv"
stem=$output/$(tr '[:upper:]' '[:lower:]' <<<"$name" | tr -cs '[:alnum:]\n' -)-$date

record() { # after each step, so that what is cut off leaves what it had; with the environment's Python once there is one
    local python=$MACHINE_PYTHON
    ! [ -x "$PYTHON" ] || python=$PYTHON
    "$python" benchmarks/gpu/record.py "$WORK" "$stem.json"
}

failures=0
run() {
    local name=$1 limit=$2 command=$3 code=0 start=$SECONDS
    local left=$((BUDGET_S - SECONDS))
    export STEP=$WORK/steps/$name
    mkdir "$STEP"
    if [ "$left" -le 0 ]; then
        code=skipped
        echo "the $BUDGET_S s of all steps were used up" >"$STEP/log"
    else
        [ "$limit" -le "$left" ] || limit=$left
        # In the background, so that a signal is heard meanwhile.
        timeout --kill-after=5 "$limit" bash -euo pipefail -c "$command" >"$STEP/log" 2>&1 </dev/null &
        step_pid=$!
        wait "$step_pid" || code=$?
        step_pid=''
    fi
    printf '%s\t%s\t%s\t%s\n' "$name" "$code" "$((SECONDS - start))" "$limit" >>"$WORK/steps.tsv"
    record
    case $code in
        0) echo "$name: passed, $((SECONDS - start)) s" ;;
        77) echo "$name: $(tail -n 1 "$STEP/log")" ;;
        skipped)
            failures=$((failures + 1))
            echo "$name: NOT RUN, $(cat "$STEP/log")"
            ;;
        *)
            failures=$((failures + 1))
            echo "$name: FAILED (exit code $code, $((SECONDS - start)) of $limit s); it last said:"
            tail -n 5 "$STEP/log" | awk '{ print "    " $0 }' # which ends the last line, too
            ;;
    esac
}
each_step run

tar -czf "$WORK/logs.tar.gz" -C "$WORK" steps
mv "$WORK/logs.tar.gz" "$stem.logs.tar.gz"
echo "written: $stem.json, $stem.logs.tar.gz; the README's table: python benchmarks/gpu_table.py"
[ "$failures" -eq 0 ] || die 1 "$failures steps failed or were not run"
