# What the tests of the SDKs share; sourced.
# shellcheck shell=bash

fail() {
  printf '%s\n' "$1" >&2
  exit 1
}

prefix='' libdir=''

# Sets `prefix` to an installation of the library, XHYBRID_DIR or the build tree $1 installed below $2, and `libdir` to
# the directory of libxhybrid.so in it.
install_library() {
  local build=$1 work=$2
  prefix=${XHYBRID_DIR:-}
  if [[ -z $prefix ]]; then
    [[ -d $build ]] || fail "no library: set XHYBRID_DIR to an installation, or build $build"
    prefix=$work/prefix
    cmake --install "$build" --prefix "$prefix" >"$work/install.log" 2>&1 || fail "cmake --install: see $work/install.log"
  fi
  [[ -x $prefix/bin/xhybrid ]] || fail "$prefix is no installation: bin/xhybrid is missing"
  local dir
  for dir in "$prefix"/lib "$prefix"/lib64 "$prefix"/lib/*-linux-gnu; do
    # shellcheck disable=SC2034 # for those that source this
    [[ -e $dir/libxhybrid.so ]] && libdir=$dir && return
  done
  fail "$prefix is no installation: libxhybrid.so is missing"
}

# Makes teacher.xhy, b.xhy, a student of two steps of alignment, and a.xhy, which two steps of distillation have led
# so far away that answers, scores and norms of the three differ, in the directory $1. $2: the repository.
make_models() {
  local where=$1 data=$2/examples/data
  local steps=(--steps 2 --batch 2 --context 64)
  {
    "$prefix/bin/xhybrid" --quiet import "$2/examples/teacher-llama-3m" "$where/teacher.xhy"
    "$prefix/bin/xhybrid" --quiet distill --teacher "$where/teacher.xhy" --output "$where/run_b" --window 64 \
      --stage align "${steps[@]}" --data "$data/mix.train.jsonl.gz"
    mv "$where/run_b/student.xhy" "$where/b.xhy"
    "$prefix/bin/xhybrid" --quiet distill --teacher "$where/teacher.xhy" --student "$where/b.xhy" --output "$where/run_a" \
      --stage distill "${steps[@]}" --learning-rate 1e-3 --data "$data/stories.train.jsonl.gz"
    mv "$where/run_a/student.xhy" "$where/a.xhy"
  } >"$where/models.log"
}
