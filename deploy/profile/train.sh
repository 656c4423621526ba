#!/bin/bash
# train.sh: makes the profiles beside this script anew: cairn.profdata for the compiler, then cairn.fdata.xz for BOLT. For
# each it builds Cairn with counters, has a cluster of it do the work of bench/peers/bench.sh on a small scale, and merges
# what was counted. As root, with FUSE, fio and xz; some ten minutes. llvm-profdata must be of the LLVM of rustc: rustup's
# component llvm-tools, a package, or $LLVM_PROFDATA; llvm-bolt and merge-fdata are Debian's bolt-22 or later, or
# $LLVM_BOLT and $MERGE_FDATA.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')
major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
target=${CARGO_TARGET_DIR:-$root/target}

# one_of HINT TOOL...: the first of them that is here
one_of() {
  local hint=$1 tool; shift
  for tool in "$@"; do
    if command -v "$tool"; then return; fi
  done
  echo "train.sh: none of $* is here: $hint" >&2
  return 1
}
merge=$(one_of "rustup component add llvm-tools, or set LLVM_PROFDATA" \
  ${LLVM_PROFDATA:+"$LLVM_PROFDATA"} "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" "llvm-profdata-$major")
bolt=$(one_of "apt-get install bolt-22, or set LLVM_BOLT" ${LLVM_BOLT:+"$LLVM_BOLT"} llvm-bolt llvm-bolt-22)
merge_fdata=$(one_of "apt-get install bolt-22, or set MERGE_FDATA" ${MERGE_FDATA:+"$MERGE_FDATA"} merge-fdata merge-fdata-22)

counted=$(mktemp -d /var/tmp/cairn-profile.XXXXXX)
trap 'rm -rf "$counted"' EXIT

# work BINARY: most of it small files, whose cost is code; that of large ones is the kernel's and the checksums'
work() {
  export CAIRN=$1
  trap '"$root/bench/peers/cairn.sh" down; rm -rf "$counted"' EXIT
  local mnt
  mnt=$("$root/bench/peers/cairn.sh" up | tail -1)
  RUNS=1 MIB=256 FILES=2000 FILES8=500 FIO_S=4 "$root/bench/peers/bench.sh" "$mnt" stream par meta1 meta8 fio untar
  "$root/bench/peers/cairn.sh" down  # counters are written when processes end in order
  trap 'rm -rf "$counted"' EXIT
}

mkdir "$counted/compiler" "$counted/bolt"
CARGO_ENCODED_RUSTFLAGS=-Cprofile-generate=$counted/compiler \
  cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target/profile" --target "$host" -p cairn
work "$target/profile/$host/release/cairn"
"$merge" merge -sparse -o "$here/cairn.profdata" "$counted/compiler"

"$root/deploy/build.sh" >/dev/null
"$bolt" "$target/$host/release/cairn" -instrument -instrumentation-file="$counted/bolt/counts" \
  -instrumentation-file-append-pid -o "$counted/cairn" >"$counted/log" 2>&1 || { cat "$counted/log" >&2; exit 1; }
work "$counted/cairn"
# what ran less often than that does not matter, and is most of it
"$merge_fdata" "$counted"/bolt/counts.* >"$counted/fdata" 2>"$counted/log" || { cat "$counted/log" >&2; exit 1; }
awk '$NF >= 20' "$counted/fdata" | xz -9 >"$counted/fdata.xz"
mv "$counted/fdata.xz" "$here/cairn.fdata.xz"
ls -l "$here"/cairn.*
