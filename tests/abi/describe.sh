#!/usr/bin/env bash
# The interface of a library as text that abidiff compares: describe.sh LIBRARY OUTPUT. Only what the public headers
# define counts; the library's own types are left out. Needs the debug information of api.cc (XHYBRID_TESTS=ON).
set -euo pipefail
abidw --exported-interfaces-only --headers-dir "$(dirname "${BASH_SOURCE[0]}")/../../abi" --drop-private-types \
  --drop-undefined-syms --no-corpus-path --no-comp-dir-path --no-show-locs --type-id-style hash --out-file "$2" \
  "$(readlink -f "$1")"
# Where the sources lay when it was built is no part of it.
sed -i "s|path='[^']*/core/|path='../../core/|" "$2"
