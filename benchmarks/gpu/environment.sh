#!/usr/bin/env bash
# An environment that sees the machine's own packages, with the carried wheels and posewarp in it.
set -euo pipefail

"$MACHINE_PYTHON" -m venv --without-pip "$ENVIRONMENT"
# By a .pth file, not --system-site-packages: that shows the base interpreter's packages, and where python3 is an
# environment's itself, PyTorch is not among them. pip is the machine's, too.
packages=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$MACHINE_PYTHON" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
    >"$packages/machine.pth"

install() {
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile "$@"
}

failed=0 wheels=()
for wheel in "$WHEELS"/*.whl; do
    case $wheel in
        */kernel_lens-* | */'*.whl') continue ;; # the first is unpacked for TensorRT's headers: plugins.sh
    esac
    wheels+=("$wheel")
done
if [ "${#wheels[@]}" -gt 0 ] && ! install "${wheels[@]}"; then
    for wheel in "${wheels[@]}"; do # which of them it is
        install "$wheel" || failed=1
    done
fi
install --no-build-isolation --editable . || failed=1
"$PYTHON" benchmarks/gpu/environment.py "$STEP/environment.json"
exit $failed
