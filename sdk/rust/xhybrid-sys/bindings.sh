#!/usr/bin/env bash
# Writes the bindings from xhybrid.h: bindings.sh HEADER [OUTPUT]. Needs bindgen 0.72.1 (cargo install bindgen-cli
# --version 0.72.1 --locked), libclang and rustfmt.
set -euo pipefail
header=${1:?usage: bindings.sh HEADER [OUTPUT]}
output=${2:-$(dirname "${BASH_SOURCE[0]}")/src/bindings.rs}
# Handles are not Copy. The header's comments become documentation, but for the titles of its sections.
bindgen "$header" --output "$output" --rust-target 1.80 --rust-edition 2021 --formatter none --use-core \
  --merge-extern-blocks --default-enum-style consts --allowlist-file '.*/xhybrid\.h' --disable-header-comment \
  --no-copy 'xh_(error|bytes|runtime|checkpoint|model|session|batch|job)' \
  --raw-line '// The application interface in Rust: written by bindings.sh (bindgen 0.72.1) from xhybrid.h.' \
  -- -fparse-all-comments
# The workspace's form, said here since the packed crate has no rustfmt.toml.
rustfmt --edition 2021 --config max_width=120,use_small_heuristics=Max "$output"
sed -i '/^ *#\[doc = " ---- .*----"\]$/d' "$output"
