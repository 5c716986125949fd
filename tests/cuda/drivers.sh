#!/usr/bin/env bash
# What a host says that cannot run the CUDA backend, and what it loads of CUDA:
#   tests/cuda/drivers.sh PROGRAM PLUGINS
# PROGRAM is xhybrid with its cpu backend, PLUGINS the directory of xhybrid_cuda.so. No GPU is needed: a driver that fails in
# each way stands in front of the host's own (fake_driver.c). Whatever it says, the program goes on with the cpu backend.
set -euo pipefail
(($# == 2)) || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$(realpath "$1") plugins=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
mkdir "$place/driver" "$place/broken" "$place/other"
cc -shared -fPIC -o "$place/driver/libcuda.so.1" tests/cuda/fake_driver.c
printf 'not a library' >"$place/broken/libcuda.so.1"
printf 'int nothing;\n' | cc -shared -fPIC -x c -o "$place/other/libcuda.so.1" -
failed=0

complain() {
  failed=1
  printf 'FAIL %s\n' "$1" >&2
  [[ -z ${2:-} ]] || sed 's/^/    /' "$2" >&2
}

# xhybrid ARGUMENT...: the program with both backends, in the environment `driver`.
driver=()
xhybrid() { env "${driver[@]}" "$program" --plugins "$plugins" "$@"; }
work() { xhybrid "$@" --quiet bench tests/vectors/teachers/hf_llama --made-up-weights --parts decode --decode-tokens 2 --repeats 1; }

# expect NAME TEXT [VARIABLE=VALUE...]: with these variables the backend is unavailable with TEXT in its reason.
expect() {
  local name=$1 text=$2
  driver=("${@:3}")
  xhybrid doctor >"$place/doctor" 2>&1 || complain "$name: doctor ends with status $?" "$place/doctor"
  grep -q "backend *cuda *no: .*$text" "$place/doctor" || complain "$name: doctor does not say \"$text\"" "$place/doctor"
  grep -q 'backend *cpu *yes' "$place/doctor" || complain "$name: the cpu backend is gone" "$place/doctor"
  if work --device cuda >"$place/out" 2>"$place/err"; then complain "$name: --device cuda ran"; fi
  [[ $(wc -l <"$place/err") == 1 && ! -s $place/out ]] || complain "$name: --device cuda gives no one line" "$place/err"
  grep -q "cannot run here: .*$text" "$place/err" || complain "$name: --device cuda does not say \"$text\"" "$place/err"
  work >"$place/out" 2>&1 || complain "$name: the best backend found does not run" "$place/out"
  printf '%-12s %s\n' "$name" "$(sed 's/^xhybrid: //' "$place/err")"
}

# What a run on the cpu backend loads of CUDA: libraries whose start is run.
loaded() {
  driver=("LD_DEBUG=files" "LD_DEBUG_OUTPUT=$place/loader" "$@")
  rm -f "$place"/loader.*
  work --device cpu >"$place/out" 2>&1 || complain "--device cpu does not run" "$place/out"
  sed -nE 's/.*calling init: (.*\/)?(lib(cuda|cudart|cublas|cublasLt|nvrtc|nvJitLink|nvidia)[^/]*)$/\2/p' "$place"/loader.*
}

front="LD_LIBRARY_PATH=$place/driver"
expect old 'the NVIDIA driver is for CUDA up to 12.4, this plugin needs 13.0 or later' "$front" XH_DRIVER_VERSION=12040
expect no-device 'no NVIDIA GPU can be used: no CUDA-capable device' "$front" XH_DRIVER_INIT=100
expect mismatch 'no NVIDIA GPU can be used: system has unsupported display driver' "$front" XH_DRIVER_INIT=803
expect no-memory 'no NVIDIA GPU can be used: out of memory' "$front" XH_DRIVER_INIT=2
expect unknown 'no NVIDIA GPU can be used: unknown error' "$front" XH_DRIVER_INIT=999
expect damaged 'the NVIDIA driver cannot be loaded: .*libcuda.so.1' "LD_LIBRARY_PATH=$place/broken"
expect other 'the NVIDIA driver does not tell its version' "LD_LIBRARY_PATH=$place/other"

if readelf -d "$plugins/xhybrid_cuda.so" | grep -E 'NEEDED.*(cuda|cublas|nvidia)'; then
  complain "xhybrid_cuda.so needs a library of CUDA"
fi
[[ $(loaded "$front" XH_DRIVER_INIT=100) == libcuda.so.1 ]] || complain "a driver that is there is not seen to be loaded"
if /sbin/ldconfig -p | grep -q 'libcuda\.so\.1'; then
  printf 'this host has an NVIDIA driver: what one without loads was not looked at\n'
else
  expect no-driver 'there is no NVIDIA driver (libcuda.so.1)'
  found=$(loaded)
  [[ -z $found ]] || complain "without a driver these are loaded: $found"
fi
((failed)) || printf 'a host without a usable GPU says why, loads nothing of CUDA, and goes on\n'
exit "$failed"
