#!/usr/bin/env bash
# What Rust costs on top of C: overhead.sh C_PROGRAM RUST_PROGRAM MODEL [ROUNDS]. Both write 1,000 tokens by turns; the
# least time of each is what the machine needs when nothing else disturbs it. Fails above XHYBRID_OVERHEAD (1.02), and
# when the two do not write the same text.
set -euo pipefail
c=$1 rust=$2 model=$3 rounds=${4:-9} limit=${XHYBRID_OVERHEAD:-1.02}
for ((round = 0; round < rounds; ++round)); do
  printf 'c %s\n' "$("$c" "$model" 1000)"
  printf 'rust %s\n' "$("$rust" "$model" 1000)"
done | awk -v limit="$limit" '
  { if (!($1 in processor) || $2 < processor[$1]) processor[$1] = $2
    if (!($1 in wall) || $3 < wall[$1]) wall[$1] = $3
    bytes[$1] = $4 }
  END {
    ratio = processor["rust"] / processor["c"]
    printf "1,000 tokens, least of the rounds: C %.1f ms, Rust %.1f ms of processor, ratio %.4f; wall %.1f ms, %.1f ms, ratio %.4f\n",
      processor["c"] / 1e3, processor["rust"] / 1e3, ratio, wall["c"] / 1e3, wall["rust"] / 1e3, wall["rust"] / wall["c"]
    if (bytes["c"] != bytes["rust"]) { print "C and Rust wrote texts of different lengths"; exit 1 }
    if (ratio > limit) { printf "Rust takes more than %s times as long as C\n", limit; exit 1 }
  }'
