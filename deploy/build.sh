#!/bin/bash
# build.sh: builds the binary as it ships, and prints its path: a release build without debug info whose code is laid out
# by the profiles in profile/, by the compiler's and then by that of BOLT (llvm-bolt, Debian's bolt-22 or later, or
# $LLVM_BOLT). Without BOLT it is laid out by the compiler alone, and says so. The profiles are of x86-64, of one version
# of Rust and of Cargo.lock; code that they do not know, such as what has changed since, works as ever, but may be slower than
# without them: make them anew (profile/train.sh) when a hot path has changed. What BOLT has written must not be stripped:
# strip(1) breaks it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$root/target}
bolt=
case $host in
  x86_64-*) for tool in ${LLVM_BOLT:-llvm-bolt llvm-bolt-22}; do
      if command -v "$tool" >/dev/null; then bolt=$tool; break; fi
    done ;;
esac
if [ -z "$bolt" ] && [ -n "${LLVM_BOLT:-}" ]; then
  echo "build.sh: \$LLVM_BOLT is $LLVM_BOLT: no such program, or not for $host" >&2
  exit 1
fi
# BOLT moves functions by the relocations that the linker leaves
# shellcheck disable=SC2206
flags=(${RUSTFLAGS:-} "-Cprofile-use=$here/profile/cairn.profdata" "-Cllvm-args=-no-pgo-warn-mismatch" "-Clink-arg=-Wl,--emit-relocs")
# with the target named, build scripts and macros are built without these
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf %s "${flags[*]}") \
  cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" --target "$host" -p cairn >&2

compiled=$target/$host/release/cairn
ships=$target/$host/release/ships
mkdir -p "$ships"
if [ -z "$bolt" ]; then
  echo "build.sh: no llvm-bolt (Debian: bolt-22): laid out by the compiler alone: small calls take a tenth more CPU" >&2
  strip --strip-debug -o "$ships/cairn.new" "$compiled"
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  xz -dc "$here/profile/cairn.fdata.xz" >"$work/fdata"
  "$bolt" "$compiled" -o "$ships/cairn.new" -data="$work/fdata" -reorder-blocks=ext-tsp -reorder-functions=cdsort \
    -split-functions -split-all-cold -split-eh -icf=safe >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
fi
# whole or not at all
mv "$ships/cairn.new" "$ships/cairn"
echo "$ships/cairn"
