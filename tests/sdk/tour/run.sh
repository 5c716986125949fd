#!/usr/bin/env bash
# Runs the tour in every language that can run here and compares what they print, byte for byte, with the tour in C.
#
#   run.sh [BUILD]             BUILD: the build tree to install and test; default build/release
#   XHYBRID_DIR                an installation to test in its place
#   XHYBRID_PYTHON             a Python that has the wheel; without it Python is skipped
#   XHYBRID_JAVA_CLASSPATH     the jar and what it needs; without it Java is skipped
#   XHYBRID_RUST_TARGET        where cargo builds, to be kept from run to run
#   XHYBRID_TOUR_ALL=1         nothing may be skipped
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../../.." && pwd)
# shellcheck source=tests/sdk/common.sh
source "$here/../common.sh"
build=$(realpath -m "${1:-$repository/build/release}")
work=$(mktemp -d "${TMPDIR:-/tmp}/xhybrid-tour.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset XHYBRID_PLUGIN_PATH

install_library "$build" "$work"
make_models "$work" "$repository"
cp "$repository/examples/data/math.test.jsonl" "$work"
tour=$repository/examples/tour
failures=0

# skip NAME WHY
skip() {
  printf '%-7s skipped: %s\n' "$1" "$2"
  [[ -z ${XHYBRID_TOUR_ALL:-} ]] || failures=$((failures + 1))
}

# Where file $2 first differs from the reference $1: both lines, with their number.
first_difference() {
  awk 'NR == FNR { expected[FNR] = $0; lines = FNR; next }
       { given[FNR] = $0; lines = FNR > lines ? FNR : lines }
       END {
         for (i = 1; i <= lines; ++i) {
           if ((i in expected) == (i in given) && expected[i] == given[i]) continue
           printf "  line %d: %s\n  in C:    %s\n", i, given[i], expected[i]
           exit
         }
         print "  in the newline at the end"
       }' "$1" "$2"
}

# same NAME WHAT FILE compares with C's FILE.
same() {
  local reference=$work/c.$3
  if cmp -s "$reference" "$work/$1.$3"; then
    printf '%-7s %s: the same as in C\n' "$1" "$2"
  else
    printf '%-7s %s: NOT the same\n' "$1" "$2"
    first_difference "$reference" "$work/$1.$3"
    failures=$((failures + 1))
  fi
}

# run NAME COMMAND...: the tour, and a tour that cannot begin.
run() {
  local name=$1 status=0
  shift
  (cd "$work" && "$@" teacher.xhy a.xhy b.xhy math.test.jsonl merged.xhy >"$name.out" 2>"$name.log") || status=$?
  if ((status != 0)); then
    printf '%-7s ended with %d\n' "$name" "$status"
    tail -n 5 "$work/$name.log"
    failures=$((failures + 1))
    [[ $name != c ]] || exit 1
    return
  fi
  (cd "$work" && "$@" teacher.xhy nowhere.xhy b.xhy math.test.jsonl merged.xhy >"$name.out2" 2>"$name.err") || status=$?
  printf 'exit status %d\n' "$status" >>"$work/$name.err"
  if [[ $name == c ]]; then
    cat "$work/c.out" "$work/c.err"
    grep -q '^core: .*nowhere.xhy' "$work/c.err" || fail 'the error of a missing student does not name it'
    return
  fi
  same "$name" output out
  same "$name" error err
}

export LD_LIBRARY_PATH=$libdir
if ! { cmake -S "$tour" -B "$work/cmake" -D CMAKE_PREFIX_PATH="$prefix" -D CMAKE_BUILD_TYPE=Release &&
  cmake --build "$work/cmake"; } >"$work/build.log" 2>&1; then
  fail "$(tail -n 20 "$work/build.log")"
fi
run c "$work/cmake/tour_c"
run c++ "$work/cmake/tour_cc"

if command -v cargo >/dev/null; then
  target=${XHYBRID_RUST_TARGET:-$work/cargo}
  XHYBRID_DIR=$prefix cargo build --quiet --manifest-path "$tour/Cargo.toml" --target-dir "$target" ||
    fail 'the tour in Rust does not build'
  run rust "$target/debug/tour"
else
  skip rust 'there is no cargo'
fi

# The packages carry a library of their own.
unset LD_LIBRARY_PATH
if [[ -n ${XHYBRID_PYTHON:-} ]]; then
  run python "$XHYBRID_PYTHON" "$tour/tour.py"
else
  skip python 'XHYBRID_PYTHON is not set'
fi
if [[ -n ${XHYBRID_JAVA_CLASSPATH:-} ]]; then
  run java java -cp "$XHYBRID_JAVA_CLASSPATH" "$tour/Tour.java"
else
  skip java 'XHYBRID_JAVA_CLASSPATH is not set'
fi
((failures == 0)) || fail "$failures failures"
