#!/usr/bin/env bash
# Writes src/bindings.rs from xhybrid_plugin.h, or to the file that is given: bindings.sh [OUTPUT]. Needs bindgen.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bindgen ../../../abi/xhybrid_plugin.h --output "${1:-src/bindings.rs}" --rust-target 1.80 --rust-edition 2021 \
  --disable-header-comment --no-doc-comments \
  --allowlist-type 'xh_(code|host|plugin|plugin_kind|text_table)' \
  --allowlist-var 'XH_(ABI_M.*OR|INVALID_ARGUMENT|NOT_FOUND|UNSUPPORTED|CORRUPT|INTERNAL|PLUGIN_TEXT)' \
  --raw-line '// The plugin interface in Rust: written by bindings.sh (bindgen) from xhybrid_plugin.h.' \
  --raw-line '#![allow(non_camel_case_types, dead_code)]' -- -I../../../abi
