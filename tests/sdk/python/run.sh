#!/usr/bin/env bash
# The Python package as a stranger has it: a wheel, installed into a fresh environment, tested from an empty directory.
#   tests/sdk/python/run.sh [PYTEST ARGUMENT...]
# PYTHON: the interpreter (default python3).
# XHYBRID_PREBUILT: build tree whose library goes into the wheel (default build/release); empty builds all of it.
# XHYBRID_VENV: an environment to install it into, which is kept; otherwise one of its own.
# XHYBRID_LEAK_CYCLES: of the leak test (default 60; the long form is 10000).
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$tests/../../.." && pwd)
prebuilt=${XHYBRID_PREBUILT-$root/build/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

venv=${XHYBRID_VENV:-$work/venv}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install numpy pytest tqdm ml_dtypes
"${pip[@]}" wheel "$root/sdk/python" --no-deps --wheel-dir "$work" \
  ${prebuilt:+--config-settings="cmake.define.XHYBRID_PREBUILT=$prebuilt"}
"${pip[@]}" install --no-deps --force-reinstall "$work"/xhybrid-*.whl

mkdir "$work/empty"
cp "$tests"/*.py "$tests"/*.c "$work/empty"
cd "$work/empty"
# Nothing of the build or of the caller may help: no plugins but those of the wheel.
env -u XHYBRID_PLUGIN_PATH -u LD_LIBRARY_PATH -u PYTHONPATH OMP_WAIT_POLICY=passive XHYBRID_SOURCE="$root" \
  "$venv/bin/python" -m pytest -p no:cacheprovider "$@"
