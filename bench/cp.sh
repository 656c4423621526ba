#!/bin/bash
# cp.sh: `cairn cp` of one file in and out, beside cp(1) of the same file through the mount, alternating, the median of
# ROUNDS (3) each: `name value unit` lines, and the ratio of the two rates. MIB (2048) of random bytes; the source, and what
# comes out, lie in /dev/shm; three copies in a tmpfs of 12 GiB, so each copy waits until the last one's space is back.
set -eu
P=$(cd "$(dirname "$0")" && pwd)/peers
ROOT=$(cd "$P/../.." && pwd) MIB=${MIB:-2048} ROUNDS=${ROUNDS:-3}
[ -n "${CAIRN:-}" ] || CAIRN=$("$ROOT/deploy/build.sh")
export CAIRN
T=$(mktemp -d /dev/shm/cp.XXXXXX)
trap 'rm -rf "$T"; "$P/cairn.sh" down' EXIT
M=$("$P/cairn.sh" up | tail -1)
cairn() { nsenter --net=/run/netns/peer "$CAIRN" "$@" --master 10.77.0.1:7400 --no-progress; }
# room MIB: until the tmpfs has so much
room() {
  local i a
  for i in $(seq 120); do
    a=$(df --output=avail -B1M "$M/.." | tail -1); [ "$a" -ge "$1" ] && return; sleep 1
  done
  echo "cp.sh: only $a MiB free" >&2; exit 1
}
cpu() { awk '/^cpu /{print ($2+$3+$4+$7+$8)/100}' /proc/stat; }
# timed NAME CMD...: appends MB/s and CPU-s/GiB to $T/NAME
timed() {
  local n=$1 s c; shift; sync; c=$(cpu); s=$(date +%s.%N); "$@"
  awk -v s="$s" -v e="$(date +%s.%N)" -v c="$c" -v d="$(cpu)" -v m="$MIB" \
    'BEGIN{print m*1.048576/(e-s), (d-c)*1024/m}' >> "$T/$n"
}
# warm MIB CMD...: with memory that the host backs already, see peers/warm.py; the time of getting it is not counted
warm() { local m=$1; shift; /usr/bin/python3 "$P/warm.py" "$m" bash -euc '"$@"' _ "$@"; }
# as cairn cp: on the servers' disks when it returns, so that the kernel has no page left that could not be dropped
durably() { cp "$T/src" "$1"; sync "$1"; }
same() { cmp "$T/src" "$1" || { echo "cp.sh: $1 differs" >&2; exit 1; }; }
export T M MIB
export -f cairn cpu timed durably
head -c "${MIB}M" /dev/urandom > "$T/src"
for _ in $(seq "$ROUNDS"); do
  for how in cp cairn; do
    room $((MIB * 7 / 2))
    case $how in
      cp) warm $((MIB * 7 / 2)) timed cp_in durably "$M/f";;
      cairn) warm $((MIB * 7 / 2)) timed cairn_in cairn cp "$T/src" cairn:/f;;
    esac
    echo 1 > /proc/sys/vm/drop_caches
    case $how in
      cp) warm $((MIB * 3 / 2)) timed cp_out cp "$M/f" "$T/out";;
      cairn) warm $((MIB * 3 / 2)) timed cairn_out cairn cp cairn:/f "$T/out";;
    esac
    same "$T/out"; rm -f "$T/out" "$M/f"
  done
done
for n in cp_in cairn_in cp_out cairn_out; do
  sort -g "$T/$n" | awk -v n="$n" '{r[NR]=$1; c[NR]=$2} END{m=int((NR+1)/2); print n, r[m], "MB/s"; print n "_cpu", c[m], "CPU-s/GiB"}'
done | tee "$T/all"
awk '{v[$1]=$2} END{print "in_ratio", v["cairn_in"]/v["cp_in"], "x"; print "out_ratio", v["cairn_out"]/v["cp_out"], "x"}' "$T/all"
