#!/usr/bin/env bash
# A GPU whose memory another process holds: commands end with one line and a status, and work when it is free again:
#   tests/bench/exhausted.sh PROGRAM OUT
# The memory is held by hold_gpu.cc. The status is 0 when all went so.
set -euo pipefail
(($# == 2)) || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
g++ -std=c++20 -O1 tests/bench/hold_gpu.cc -ldl -o "$out/hold_gpu"
failed=0
left=
teacher=examples/teacher-llama-3m

run() {
  local xhybrid=("$program" --device cuda --quiet)
  case $1 in
    distill)
      rm -rf "$out/run"
      "${xhybrid[@]}" distill --teacher "$teacher" --output "$out/run" --window 64 --sinks 4 --stage align --steps 2 \
        --context 512 --batch 64 --data examples/data/mix.train.jsonl.gz
      ;;
    generate) "${xhybrid[@]}" generate "$teacher" "Once upon a time" --max-tokens 8 ;;
    bench)
      "${xhybrid[@]}" bench tests/bench/shapes/llama-1b --made-up-weights --dtype bf16 --parts prefill --prefill-tokens 4096 \
        --repeats 1
      ;;
  esac >"$out/stdout" 2>"$out/stderr"
}

# expect HOW NAME: the command works, refuses with one line that says that memory is missing, or copes: one of the two.
expect() {
  local status=0 lines what="$2 with ${left:-all} MiB left"
  run "$2" || status=$?
  lines=$(wc -l <"$out/stderr")
  if ((status == 0)) && [[ $1 != refuses ]]; then
    printf '%s: works\n' "$what"
  elif ((status == 1 && lines == 1)) && [[ $1 != works ]] && grep -qiE 'memory|allocate|free of' "$out/stderr"; then
    printf '%s: %s\n' "$what" "$(<"$out/stderr")"
  else
    failed=1
    printf 'FAIL %s: status %d, and it says:\n%s\n' "$what" "$status" "$(<"$out/stderr")"
  fi
}

# with_left MEGABYTES HOW NAME...: expects the pairs while only so much is free.
with_left() {
  left=$1
  coproc HOLDER { exec "$out/hold_gpu" "$left"; }
  # shellcheck disable=SC2153 # coproc sets it
  local holder=$HOLDER_PID input=${HOLDER[1]} says
  read -r says <&"${HOLDER[0]}"
  printf '%s\n' "$says"
  shift
  while (($#)); do
    expect "$1" "$2"
    shift 2
  done
  exec {input}>&- # ends the holder
  wait "$holder"
  left=
}

with_left 50 refuses distill refuses generate refuses bench
with_left 700 copes distill copes generate refuses bench
with_left 1500 copes distill copes generate refuses bench
for name in distill generate bench; do expect works "$name"; done
exit "$failed"
