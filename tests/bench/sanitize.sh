#!/usr/bin/env bash
# The whole conformance program on a GPU under a tool of compute-sanitizer, several processes at once:
#   tests/bench/sanitize.sh TOOL BUILD OUT [SECONDS [PATTERN]]
# TOOL is memcheck, racecheck, synccheck or initcheck. BUILD is as of gpu.sh. What has not ended after SECONDS (default 300) is not
# finished; PATTERN, as of --filter, takes a part. The last line counts the tests: run, clean, not finished. OUT gets a log a
# process and the seconds of each test, tests.tsv. The status is 0 when all are clean.
set -euo pipefail
(($# >= 3)) || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
tool=$1 build=$(realpath "$2") limit=${4:-300} pattern=${5:-*}
mkdir -p "$3"
out=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
started=$EPOCHSECONDS
jobs=${XH_SANITIZE_JOBS:-$(nproc)}
each=${XH_SANITIZE_EACH:-3} # tests a process: each start of one costs seconds, and the last to end are waited for
deadline=$((started + limit))
conformance=$build/bin/xhybrid-conformance
plugin=$build/lib/xhybrid/xhybrid_cuda.so
filter=
case $tool in
  memcheck) options='--report-api-errors no' ;; # tests ask for more memory than there is, and read the error
  *) options='' filter='--kernel-name kns=xh3gpu' ;; # ours: those of cuBLASLt take minutes and have no source here
esac
options=${XH_SANITIZE_OPTIONS-$options}
# racecheck with a filter loses a program of nothing but cuBLASLt's products ("failed to handle a hardware exception"), and what
# this test runs first are such; without a filter it finds both clean.
unfiltered=Dense.ManyRowsAddToTheResidual
# What takes longest under a tool comes first, each in a process of its own.
slow=(HybridStep Sizes/HybridStepGroups Sizes/PackedAttention Sizes/MlstmCuts MlstmState MlstmLength Composite DocumentMlstm
  DocumentAttention Leaks Matmul MlstmGradient Sizes/AttentionDims AttentionCache DistillLoss Sizes/MlstmDims AttentionGradient
  Sizes/AttentionSizes Steps/AttentionCuts Sizes/DocumentAttentionSizes HeadGate SelectHeads FeatureMap Cast)

# Lines of tests for one process each, slow ones first.
groups() {
  local name suite
  local -a all rest=()
  mapfile -t all < <("$conformance" --vectors tests/vectors --list --filter "$pattern" "$plugin")
  printf '%s\n' "${all[@]}" >"$out/all"
  for suite in "${slow[@]}"; do
    for name in "${all[@]}"; do [[ $name != "$suite."* ]] || printf '%s\n' "$name"; done
  done
  for name in "${all[@]}"; do
    suite=${name%.*}
    if [[ $name == "$unfiltered" ]]; then
      printf '%s\n' "$name"
    elif [[ " ${slow[*]} " != *" $suite "* ]]; then
      rest+=("$name")
    fi
  done
  ((${#rest[@]} == 0)) || printf '%s\n' "${rest[@]}" | paste -sd "$(printf ':%.0s' $(seq $((each - 1))))\n"
}

# group NUMBER TESTS: one process under the tool. Its tests are clean when the tool says so of every process that used the GPU.
group() {
  local log=$out/$1 left=$((deadline - EPOCHSECONDS)) clean=1 filter=$filter status=0
  ((left > 0)) || return 0
  [[ $2 != "$unfiltered" ]] || filter=
  # shellcheck disable=SC2086 # several words
  timeout --kill-after=5 "$left" compute-sanitizer --tool "$tool" $options $filter --target-processes all --log-file "$log.%p" \
    "$conformance" --vectors tests/vectors --quick --times --filter "$2" "$plugin" >"$log.out" 2>&1 || status=$?
  if ((status >= 124)); then # out of time, or killed
    printf 'ENDED WITH %d %s\n' "$status" "$2" >"$log.ended"
    return 0
  fi
  grep -qhE 'SUMMARY: 0 (errors|hazards)' "$log".[0-9]* || clean=0
  ! grep -hE 'SUMMARY|Internal' "$log".[0-9]* | grep -qvE 'SUMMARY: 0 (errors|hazards)' || clean=0
  awk -v clean="$clean" '/^FAIL/ { clean = 0 } /^ended/ { at[++n] = $2 "\t" $3 } END { for (i = 1; i <= n; ++i) print at[i] "\t" clean }' \
    "$log.out" >"$log.tests"
}
export -f group
export conformance deadline filter options out plugin tool unfiltered

rm -f "$out"/*
groups >"$out/groups"
# shellcheck disable=SC2016 # the inner shell expands them
nl -ba -w4 -s' ' "$out/groups" | xargs -P "$jobs" -L 1 bash -c 'group "$@"' group
cat "$out"/*.tests >"$out/tests.tsv"
total=$(wc -l <"$out/all") run=$(wc -l <"$out/tests.tsv") clean=$(awk -F'\t' '$3 == 1' "$out/tests.tsv" | wc -l)
awk -F'\t' '$3 != 1 { print "NOT CLEAN " $1 }' "$out/tests.tsv"
grep -hE '^=+ (Error|Warning|Program|Internal)' "$out"/*.[0-9]* | sort | uniq -c | sort -rn | head -20 || true # there are none where all are clean
cut -f1 "$out/tests.tsv" | sort | comm -13 - <(sort "$out/all") | sed 's/^/NOT FINISHED /'
cat "$out"/*.ended 2>/dev/null || true # there are none where all are run
printf '%s: %d of %d tests run, %d clean, %d not finished, %d s\n' "$tool" "$run" "$total" "$clean" $((total - run)) \
  $((EPOCHSECONDS - started))
((clean == total))
