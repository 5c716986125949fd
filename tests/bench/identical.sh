#!/usr/bin/env bash
# A fixed seed trains bit-identically twice, and when it was killed in between:
#   tests/bench/identical.sh PROGRAM DEVICE OUT
# Stage I, then stage II, a few steps each on the teacher of the repository, in f32 and in bf16. The students and the last
# training checkpoints are compared byte for byte. The status is 0 when all are equal.
set -euo pipefail
(($# == 3)) || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$(realpath "$1") device=$2
mkdir -p "$3"
out=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
steps=${XH_IDENTICAL_STEPS:-8}
differs=0

# train DTYPE NAME: the same run every time, in a directory of its own.
train() {
  "$program" --device "$device" --quiet distill --teacher examples/teacher-llama-3m --output "$out/$1-$2" --window 64 --sinks 4 \
    --stage align --stage distill --steps "$steps" --context 256 --batch 16 --micro-batch 8 --dtype "$1" --save-every 2 --seed 7 \
    --data examples/data/mix.train.jsonl.gz:0.6 --data examples/data/stories.train.jsonl.gz:0.4 >"$out/$1-$2.log" 2>&1
}

# Ends it hard once it has saved, and begins again.
train_with_a_kill() {
  { train "$1" "$2" || exit 1; } 2>/dev/null & # the shell would tell of the kill
  local job=$! saved=("$out/$1-$2"/step-*.xhy)
  while [[ ! -e ${saved[0]} ]] && kill -0 "$job" 2>/dev/null; do
    sleep 0.02
    saved=("$out/$1-$2"/step-*.xhy)
  done
  pkill -KILL -P "$job" 2>/dev/null || true # it may have ended by itself
  wait "$job" && printf '%s: the run had ended before it was killed\n' "$1"
  train "$1" "$2"
}

# compare DTYPE NAME NAME: every checkpoint of the two runs.
compare() {
  local path files=0
  for path in "$out/$1-$2"/student.xhy "$out/$1-$2"/step-*.xhy; do
    diff -r "$path" "$out/$1-$3/${path##*/}" || differs=1
    files=$((files + $(find "$path" -type f | wc -l)))
  done
  printf '%s: %s and %s, %d files in %s: %s\n' "$1" "$2" "$3" "$files" "$(du -sh "$out/$1-$2" | cut -f1)" \
    "$( ((differs)) && echo 'THEY DIFFER' || echo 'the same bytes')"
}

for dtype in f32 bf16; do
  rm -rf "$out/$dtype"-{first,second,killed}
  train "$dtype" first
  train "$dtype" second
  train_with_a_kill "$dtype" killed
  compare "$dtype" first second
  compare "$dtype" first killed
done
exit "$differs"
