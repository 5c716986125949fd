#!/usr/bin/env bash
# Imports a checkpoint of Llama-3.1-8B's shape with random weights and compares with copying its files: time and resident
# memory. Takes 50 GB of disk below DIRECTORY. Usage: tests/bench/import_8b.sh DIRECTORY [PROGRAM]
set -euo pipefail
directory=${1:?usage: $0 DIRECTORY [PROGRAM]}
program=${2:-build/release/bin/xhybrid}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$directory"
[[ -s $directory/model/config.json ]] || python3 "$root/make_checkpoint.py" "$directory/model"

# Without what the page cache holds of the files, where this may be told to the kernel.
forget() {
  sync
  { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null || true # only root may: both sides then start with warm files alike
}
seconds() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", b - a }'; }

# MEASURE NAME OUTPUT COMMAND...: its wall-clock time, the data on the disk
measure() {
  local name=$1 output=$2 start end
  shift 2
  rm -rf "$output"
  forget
  start=$(date +%s.%N)
  "$@"
  sync -f "$directory"
  end=$(date +%s.%N)
  printf '%-8s %s s\n' "$name" "$(seconds "$start" "$end")" | tee -a "$directory/times.txt"
}

# The anonymous memory of a process at its peak: what it holds beyond mapped files.
watch_memory() {
  local pid=$1 most=0 state now
  while read -r state now < <(awk '/^State/ { s = $2 } /^RssAnon/ { r = $2 } END { print s, r + 0 }' \
    "/proc/$pid/status" 2>/dev/null) && [[ $state != Z ]]; do
    ((now <= most)) || most=$now
    sleep 0.05
  done
  printf 'resident beyond the page cache: %d MiB at most\n' $((most / 1024))
}
import() {
  local pid
  "$program" import "$directory/model" "$directory/imported.xhy" --replace >/dev/null 2>"$directory/import.log" &
  pid=$!
  watch_memory "$pid"
  wait "$pid" || { cat "$directory/import.log" >&2; exit 1; }
}

rm -f "$directory/times.txt"
for _ in 1 2 3; do
  measure copy "$directory/copied" cp -r "$directory/model" "$directory/copied"
  rm -rf "$directory/copied"
  measure import "$directory/imported.xhy" import
  rm -rf "$directory/imported.xhy"
done
median() { awk -v name="$1" '$1 == name { print $2 }' "$directory/times.txt" | sort -n | sed -n 2p; } # of three
copy=$(median copy) import=$(median import)
printf 'import / copy: %s (%s s / %s s)\n' "$(awk -v a="$import" -v b="$copy" 'BEGIN { printf "%.2f", a / b }')" "$import" "$copy"
