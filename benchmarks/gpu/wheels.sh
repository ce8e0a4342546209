#!/usr/bin/env bash
# Wheels that are too large to carry whole: cut into parts, and put together again.
#
#   bash benchmarks/gpu/wheels.sh split DIR [MIB]   those above MIB (48) become NAME.whl.part-00, ... and NAME.whl.sha256
#   bash benchmarks/gpu/wheels.sh join DIR INTO     whole ones are linked, parts joined; what does not fit its hash is not
set -euo pipefail

split_wheels() { # folder, MiB
    local wheel
    cd "$1"
    for wheel in *.whl; do
        [ -f "$wheel" ] && [ "$(stat -c %s "$wheel")" -gt $(($2 * 1024 * 1024)) ] || continue
        sha256sum "$wheel" >"$wheel.sha256"
        split --bytes="$2M" --numeric-suffixes --suffix-length=2 "$wheel" "$wheel.part-"
        rm "$wheel"
        echo "$wheel: $(find . -name "$wheel.part-*" | wc -l) parts"
    done
}

join_wheels() { # folder, folder
    local from=$1 into=$2 file wheel failed=0
    if [ -z "$from" ]; then
        echo "no wheels were given"
        return
    fi
    for file in "$from"/*.whl; do
        [ ! -f "$file" ] || ln -sf "$file" "$into/"
    done
    for file in "$from"/*.whl.sha256; do
        [ -f "$file" ] || continue
        wheel=$(basename "$file" .sha256)
        cat "$from/$wheel".part-* >"$into/$wheel" || true
        if ! (cd "$into" && sha256sum --status --check "$file"); then
            rm -f "$into/$wheel"
            echo "$wheel: its parts do not give its hash; a part is missing or damaged"
            failed=1
        fi
    done
    for file in "$from"/*.part-00; do
        [ ! -f "$file" ] || [ -f "${file%.part-00}.sha256" ] || {
            echo "$(basename "$file"): no $(basename "${file%.part-00}").sha256 beside it"
            failed=1
        }
    done
    find "$into" -name '*.whl' -printf '%f\n' | sort
    return $failed
}

case ${1:-} in
    split) split_wheels "${2:?a folder of wheels}" "${3:-48}" ;;
    join) join_wheels "${2?a folder of wheels}" "${3:?a folder to join them in}" ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
