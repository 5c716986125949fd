#!/usr/bin/env bash
# What takes a GPU to see, in one go: conformance, every timing of docs/performance.md, and what the backend promises beside:
#   tests/bench/gpu.sh BUILD OUT [PART...]
# BUILD holds bin/xhybrid, bin/xhybrid-conformance, bin/device_*_test and lib/, with the stages in lib/xhybrid. The part `build` makes
# xhybrid_cuda.so there from this tree, for Hopper alone, by nvcc and g++ and no more: the rest of BUILD may come from
# elsewhere. OUT gets a log a part, and figures.tsv, printed at the end as a table: a line a figure, name, value, unit and floor. Parts:
# build device conformance identical waits exhausted memcheck racecheck ops prefill decode align distill; all of them unless some are
# named. The first that fails ends it.
set -euo pipefail
(($# >= 2)) || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(realpath "$1") out=$2
shift 2
parts=("$@")
((${#parts[@]})) || parts=(build device conformance identical waits exhausted memcheck racecheck ops prefill decode align distill)
mkdir -p "$out"
out=$(realpath "$out")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export XH_FIGURES=$out/figures.tsv
plugin=$build/lib/xhybrid/xhybrid_cuda.so
shapes=tests/bench/shapes
student=(--window 512 --sinks 4 --feature-map hedgehog --features 64) # mLSTM heads of 128 x d

bench() {
  "$build/bin/xhybrid" --device cuda bench --made-up-weights --dtype bf16 "${student[@]}" "$@" | tee "$out/bench"
  awk -F'  +' -v shape="${1##*/}" '$2 ~ /^[0-9]+$/ && $3 ~ /\/s$/ { print shape ", " $1 "\t" $2 "\ttokens/s\t-" }' "$out/bench" >>"$XH_FIGURES"
}

# device_test NAME...: tests that the cpu backend passes everywhere, on the GPU.
device_test() {
  local place=$out/watched name
  mkdir -p "$place"
  cc -shared -fPIC -std=c99 -Iabi -o "$place/watched.so" tests/device/watched.c -ldl
  for name in "$@"; do
    XH_WATCHED=$plugin XH_WATCHED_PLUGINS=$place/watched.so:$build/lib/xhybrid XH_WATCHED_SOURCE=$PWD "$build/bin/device_${name}_test"
  done
}

# compile SOURCE OBJECTS: one object. What stands in *_sm90.cu needs the instructions of its own name.
compile() {
  local object="$2/${1##*/}.o"
  if [[ $1 == *.cc ]]; then
    g++ -std=c++20 -O2 -fPIC -fvisibility=hidden -DXH_SM90 -DXHYBRID_RELEASE="\"$(<VERSION)\"" -I. -Iabi -isystem "$cuda/include" -c "$1" \
      -o "$object"
    return
  fi
  local target=-gencode=arch=compute_90,code=sm_90
  [[ $1 != *_sm90.cu ]] || target=-gencode=arch=compute_90a,code=sm_90a
  "$cuda/bin/nvcc" --options-file backends/cuda/nvcc_options.txt -I. -Iabi "$target" -c "$1" -o "$object"
}
export -f compile

part_build() {
  local objects nvcc
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  export cuda=${CUDA_HOME:-${nvcc%/bin/nvcc}}
  objects=$(mktemp -d)
  # The largest first: the last to end is waited for.
  # shellcheck disable=SC2016 # the inner shell expands them
  find backends/cuda backends/common -name '*.c[cu]' -printf '%s\t%p\n' | sort -rn | cut -f2 |
    xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' compile {} "$objects"
  g++ -shared -o "$plugin" "$objects"/*.o -Wl,--version-script=cmake/xhybrid_plugin.map -L"$cuda/lib64" -L"$cuda/lib" -lcudart_static \
    -ldl -lpthread -lrt
  rm -rf "$objects"
}

part_device() { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; }
part_conformance() { "$build/bin/xhybrid-conformance" --vectors tests/vectors "$plugin" | tail -n 30; }
part_identical() {
  tests/bench/identical.sh "$build/bin/xhybrid" cuda "$out/identical"
  rm -rf "$out/identical"
}
part_waits() { device_test waits; }
part_exhausted() {
  XH_EXHAUSTED_ROUNDS=12 device_test exhausted
  tests/bench/exhausted.sh "$build/bin/xhybrid" "$out/exhausted"
  rm -rf "$out/exhausted"
}
part_memcheck() { tests/bench/sanitize.sh memcheck "$build" "$out/memcheck.logs" 240; }
part_racecheck() { tests/bench/sanitize.sh racecheck "$build" "$out/racecheck.logs" 600; }
part_ops() {
  local program
  program=$(mktemp)
  g++ -std=c++20 -O2 -Iabi tests/bench/gpu_ops.cc -ldl -o "$program"
  "$program" "$plugin"
  rm -f "$program"
}
part_prefill() {
  local tokens
  for tokens in 16384 65536; do
    bench "$shapes/llama-8b" --parts prefill --prefill-tokens "$tokens" --repeats 5
  done
}
part_decode() {
  local after
  for after in 1024 16384 126976; do
    bench "$shapes/llama-8b" --parts decode --decode-after "$after" --decode-tokens 128 --repeats 20
  done
  bench "$shapes/llama-8b" --parts decode --decode-after 1024 --decode-batch 64 --decode-tokens 32 --repeats 20
}
part_align() { bench "$shapes/llama-1b" --parts align --context 4096 --micro-batch 4 --repeats 20; }
part_distill() { bench "$shapes/llama-1b" --parts distill --context 4096 --micro-batch 4 --repeats 20; }

for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || { echo "$0: there is no part \"$part\"" >&2; exit 2; }
  printf '\n== %s\n' "$part"
  "part_$part" 2>&1 | tee "$out/$part.log"
done
[[ ! -s $XH_FIGURES ]] || awk -F'\t' 'BEGIN { print "\n== figures" } { printf "%-64s %12s %-10s %s\n", $1, $2, $3, $4 }' "$XH_FIGURES"
