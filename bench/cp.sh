#!/bin/bash
# cp.sh [OUT]: `cairn cp` of a large file in and out beside cp through the mount, on the cluster of peers/cairn.sh,
# alternating. One table: medians of ROUNDS (default 5) in MB/s, and the ratio. Both are durable when they return: cp is
# followed by sync of the file. MIB (default 2048) is the file's size; memory for six of it is needed.
set -eu
HERE=$(cd "$(dirname "$0")" && pwd); P=$HERE/peers
ROUNDS=${ROUNDS:-5} MIB=${MIB:-2048} OUT=${1:-/dev/stdout}
CAIRN=${CAIRN:-$HERE/../target/release/cairn}
T=$(mktemp -d /dev/shm/cp.XXXXXX)
trap 'rm -rf "$T"; "$P/cairn.sh" down > /dev/null 2>&1' EXIT
MNT=$("$P/cairn.sh" up | tail -1)
MASTER=10.77.0.1:7400
cairn() { nsenter --net=/run/netns/peer "$CAIRN" "$@"; }
cold() { echo 1 > /proc/sys/vm/drop_caches; }
# rate NAME CMD...: runs it, and notes MB/s
rate() {
  local name=$1 a b; shift
  a=$(date +%s%N); "$@"; b=$(date +%s%N)
  awk -v n="$name" -v m="$MIB" -v t="$((b - a))" 'BEGIN{printf "%s %.0f\n", n, m * 1048576 / t * 1000}' >> "$T/rates"
}
through_mount() { cp "$1" "$2"; sync "$2"; }
head -c "$((MIB * 1048576))" /dev/urandom > "$T/source"
for _ in $(seq "$ROUNDS"); do
  for how in mount cairn; do
    f=file-$how
    if [ $how = mount ]; then rate in_mount through_mount "$T/source" "$MNT/$f"
    else rate in_cairn cairn cp --no-progress --master $MASTER "$T/source" cairn:/$f; fi
    cold
    if [ $how = mount ]; then rate out_mount through_mount "$MNT/$f" "$T/out"
    else rate out_cairn cairn cp --no-progress --master $MASTER cairn:/$f "$T/out"; fi
    cmp "$T/source" "$T/out"
    rm "$MNT/$f"
    # the space comes back by and by
    for _ in $(seq 60); do
      [ "$(df --output=avail -B1M "$(dirname "$MNT")" | tail -1)" -ge $((MIB * 7 / 2)) ] && break; sleep 1
    done
  done
done
median() { awk -v n="$1" '$1 == n {print $2}' "$T/rates" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
{
  printf '| copy | through the mount, MB/s | cairn cp, MB/s | ratio |\n|---|---:|---:|---:|\n'
  for d in in out; do
    a=$(median ${d}_mount) b=$(median ${d}_cairn)
    awk -v d=$d -v a="$a" -v b="$b" 'BEGIN{printf "| %s | %d | %d | %.2f |\n", d, a, b, b / a}'
  done
} > "$OUT"
