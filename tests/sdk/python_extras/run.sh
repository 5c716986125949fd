#!/usr/bin/env bash
# What stands on top of the Python package: merge strategies, reports, lm-evaluation-harness. As tests/sdk/python/run.sh:
# a wheel, installed into a fresh environment, tested from an empty directory.
#   tests/sdk/python_extras/run.sh [PYTEST ARGUMENT...]
# XHYBRID_PREBUILT: build tree whose library goes into the wheel (default build/release); empty builds all of it.
# XHYBRID_VENV: an environment with the dependencies, to save installing them (about 850 MB; torch is not among them).
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$tests/../../.." && pwd)
prebuilt=${XHYBRID_PREBUILT-$root/build/release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

venv=${XHYBRID_VENV:-$work/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install numpy pytest 'matplotlib>=3.7' 'lm_eval>=0.4.8'
"${pip[@]}" wheel "$root/sdk/python" --no-deps --wheel-dir "$work" ${prebuilt:+-C cmake.define.XHYBRID_PREBUILT="$prebuilt"}
"${pip[@]}" install --no-deps --force-reinstall "$work"/xhybrid-*.whl

mkdir "$work/empty"
cp -r "$tests"/*.py "$tests/tasks" "$work/empty"
cd "$work/empty"
# Nothing of the build or of the caller may help, and nothing is fetched.
env -u XHYBRID_PLUGIN_PATH -u LD_LIBRARY_PATH -u PYTHONPATH OMP_WAIT_POLICY=passive XHYBRID_SOURCE="$root" \
  HF_HOME="$work/hf" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
  "$venv/bin/python" -m pytest -p no:cacheprovider "$@"
