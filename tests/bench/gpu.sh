#!/usr/bin/env bash
# Conformance and every timing of docs/performance.md on a machine with a GPU, in one go:
#   tests/bench/gpu.sh BUILD OUT [PART...]
# BUILD holds bin/xhybrid, bin/xhybrid-conformance and lib/, with lib/xhybrid/xhybrid_cuda.so and the stages. OUT gets a log
# a part. Parts: device conformance ops prefill decode align distill; all of them unless some are named. The first that fails ends it.
set -euo pipefail
(($# >= 2)) || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
build=$(realpath "$1") out=$2
shift 2
parts=("$@")
((${#parts[@]})) || parts=(device conformance ops prefill decode align distill)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$out"
plugin=$build/lib/xhybrid/xhybrid_cuda.so
shapes=tests/bench/shapes
student=(--window 512 --sinks 4 --feature-map hedgehog --features 64) # mLSTM heads of 128 x d

bench() { "$build/bin/xhybrid" --device cuda bench --made-up-weights --dtype bf16 "${student[@]}" "$@"; }

part_device() { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; }
part_conformance() { "$build/bin/xhybrid-conformance" --vectors tests/vectors "$plugin" | tail -n 30; }
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
}
part_align() { bench "$shapes/llama-1b" --parts align --context 4096 --micro-batch 4 --repeats 20; }
part_distill() { bench "$shapes/llama-1b" --parts distill --context 4096 --micro-batch 4 --repeats 20; }

for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || { echo "$0: there is no part \"$part\"" >&2; exit 2; }
  printf '\n== %s\n' "$part"
  "part_$part" 2>&1 | tee "$out/$part.log"
done
