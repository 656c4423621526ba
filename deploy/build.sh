#!/bin/bash
# build.sh: builds the binary as it ships, and prints its path: a release build whose code is laid out by the profile in
# profile/. The profile is of x86-64, of one version of Rust and of Cargo.lock; code that it does not know, such as what
# has changed since, is compiled as in any release build, so it is never wrong, only less use.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$root/target}
# shellcheck disable=SC2206
flags=(${RUSTFLAGS:-} "-Cprofile-use=$here/profile/cairn.profdata" "-Cllvm-args=-no-pgo-warn-mismatch")
# with the target named, build scripts and macros are built without these
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}") \
  cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" --target "$host" -p cairn >&2
echo "$target/$host/release/cairn"
