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

# Makes teacher.xhy, a.xhy and b.xhy, two students of a few steps, in the directory $1. $2: the repository.
make_models() {
  local where=$1 repository=$2 student
  "$prefix/bin/xhybrid" --quiet import "$repository/examples/teacher-llama-3m" "$where/teacher.xhy" >"$where/models.log"
  for student in a:mix b:stories; do
    "$prefix/bin/xhybrid" --quiet distill --teacher "$where/teacher.xhy" --output "$where/run_${student%:*}" --window 64 --stage align \
      --steps 2 --batch 2 --context 64 --data "$repository/examples/data/${student#*:}.train.jsonl" >>"$where/models.log"
    mv "$where/run_${student%:*}/student.xhy" "$where/${student%:*}.xhy"
  done
}
