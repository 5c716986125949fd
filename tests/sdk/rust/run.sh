#!/usr/bin/env bash
# Tests the Rust crates as they are published, against an installed library, in an empty directory.
#
#   run.sh [BUILD]             BUILD: the build tree to install and test; default build/release
#   XHYBRID_DIR                an installation to test in its place
#   XHYBRID_LEAK_CYCLES        cycles of the leak test, 300; a release is tested with 10000
#   XHYBRID_OVERHEAD_ROUNDS    rounds of the comparison with C, 8; 0 leaves it out
#   XHYBRID_RUST_TARGET        where cargo builds, to be kept from run to run
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../../.." && pwd)
# shellcheck source=tests/sdk/common.sh
source "$here/../common.sh"
build=$(realpath -m "${1:-$repository/build/release}")
work=$(mktemp -d "${TMPDIR:-/tmp}/xhybrid-rust.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset XHYBRID_PLUGIN_PATH
heading() { printf '\n==> %s\n' "$1"; }

install_library "$build" "$work"
mkdir -p "$work/models" "$work/sdk/rust" "$work/tests/sdk" "$work/data"
make_models "$work/models" "$repository"
cp "$repository/examples/data/math.test.jsonl" "$work/data"
export XHYBRID_DIR=$prefix LD_LIBRARY_PATH=$libdir CARGO_TARGET_DIR=${XHYBRID_RUST_TARGET:-$work/target}
export XHYBRID_TEST_MODELS=$work/models XHYBRID_TEST_DATA=$work/data
XHYBRID_TEST_VERSION=$(<"$repository/VERSION")
export XHYBRID_TEST_VERSION

heading 'Form, lints and documentation'
cd "$repository/sdk/rust"
cargo fmt --all --check
cargo fmt --check --manifest-path "$here/Cargo.toml"
cargo clippy --quiet --workspace --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps

heading 'Packaging both crates'
cargo publish --dry-run --workspace --allow-dirty
cargo package --quiet --workspace --allow-dirty --no-verify # leaves what publish has verified and put away
for name in xhybrid-sys xhybrid; do # with the time of now: cargo looks at it to see what is new
  tar -xzmf "$CARGO_TARGET_DIR/package/$name-$XHYBRID_TEST_VERSION.crate" -C "$work/sdk/rust"
  mv "$work/sdk/rust/$name-$XHYBRID_TEST_VERSION" "$work/sdk/rust/$name"
done
export RUST_BACKTRACE=0
cp -r "$here" "$work/tests/sdk/rust"
rm -rf "$work/tests/sdk/rust/target"

heading 'Tests of the packages themselves'
cd "$work"
cat >Cargo.toml <<'END'
[workspace]
members = ["sdk/rust/xhybrid-sys", "sdk/rust/xhybrid"]
resolver = "2"
[patch.crates-io]
xhybrid-sys = { path = "sdk/rust/xhybrid-sys" }
END
# A stable rustdoc takes any error for the one that a compile_fail example names; this one looks at its code.
printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$work/rustdoc"
chmod +x "$work/rustdoc"
RUSTDOC=$work/rustdoc cargo test --workspace -- --show-output

# Of several arenas of the allocator each keeps a megabyte, and which one an allocation takes is chance: the leak test counts.
export MALLOC_ARENA_MAX=1

heading 'Tests against the installed library'
cd "$work/tests/sdk/rust"
cargo test -- --show-output

if ((${XHYBRID_OVERHEAD_ROUNDS:-8} > 0)); then
  heading 'Overhead against C'
  cargo run --quiet --release --bin overhead -- "$work/models/teacher.xhy" "${XHYBRID_OVERHEAD_ROUNDS:-8}"
fi
