#!/usr/bin/env bash
# Until version 1.0 is released: copies the headers of today over the frozen ones and describes the library anew.
#   tests/abi/refresh_frozen.sh "what changed and why" [build/release]
# From 1.0 on the copy never changes; a new minor gets a directory of its own beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
fail() {
  printf 'refresh_frozen: %s\n' "$1" >&2
  exit 1
}
[[ $# -ge 1 && -n $1 ]] || fail 'say what changed: it becomes a line of abi/CHANGES.md'
grep -q '^## 1.0 (not released yet)$' abi/CHANGES.md || fail '1.0 is released: its frozen copy never changes'
library=${2:-build/release}/lib/libxhybrid.so
[[ -e $library ]] || fail "$library does not exist; build with XHYBRID_TESTS=ON first"
frozen=tests/abi/frozen/1.0
cp abi/xhybrid.h abi/xhybrid_plugin.h abi/checkpoint.fbs "$frozen/"
tests/abi/describe.sh "$library" "$frozen/libxhybrid.abi"
line=$(grep -n '^## 1.0 (not released yet)$' abi/CHANGES.md | cut -d : -f 1)
sed -i "$((line + 1))a - ${1//\\/}" abi/CHANGES.md
printf 'frozen: %s, and a line in abi/CHANGES.md\n' "$frozen"
