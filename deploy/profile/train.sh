#!/bin/bash
# train.sh: makes cairn.profdata, beside this script, anew: builds Cairn with counters, has a cluster of it do the work of
# bench/peers/bench.sh on a small scale, and merges what was counted. As root, with FUSE and fio; some five minutes. The
# tool that merges must be of the LLVM of rustc: rustup's component llvm-tools, a package, or $LLVM_PROFDATA.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
merge=
for tool in "${LLVM_PROFDATA:-}" "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$major"; do
  if command -v "$tool" >/dev/null; then merge=$tool; break; fi
done
[ -n "$merge" ] || { echo "train.sh: no llvm-profdata of LLVM $major: rustup component add llvm-tools, or set LLVM_PROFDATA" >&2; exit 1; }

counted=$(mktemp -d /var/tmp/cairn-profile.XXXXXX)
trap 'rm -rf "$counted"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}/profile
CARGO_ENCODED_RUSTFLAGS=-Cprofile-generate=$counted \
  cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" --target "$host" -p cairn

export CAIRN=$CARGO_TARGET_DIR/$host/release/cairn
trap '"$root/bench/peers/cairn.sh" down; rm -rf "$counted"' EXIT
mnt=$("$root/bench/peers/cairn.sh" up | tail -1)
# most of it small files, whose cost is code; that of large ones is the kernel's and the checksums'
RUNS=1 MIB=256 FILES=2000 FILES8=500 FIO_S=4 "$root/bench/peers/bench.sh" "$mnt" stream par meta1 meta8 fio untar
"$root/bench/peers/cairn.sh" down  # counters are written when processes end in order
trap 'rm -rf "$counted"' EXIT
"$merge" merge -sparse -o "$here/cairn.profdata" "$counted"
ls -l "$here/cairn.profdata"
