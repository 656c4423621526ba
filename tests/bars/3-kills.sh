#!/bin/bash
# Bar 3: four chunkserver processes; kill -9 of one in the middle of a 2 GiB `cairn cp`; the copy finishes, the hash is
# right, every chunk is back at 3 replicas within 60 s after the repair delay. Then the same with the master, restarted
# after 5 s.
. "$(dirname "$0")/common.sh"
MIB=${MIB:-2048} DELAY=${DELAY:-10}
cd "$WORK"
M=(--repair-delay "${DELAY}s")
master "${M[@]}"
within 20 status || die "the master does not answer"
for n in 1 2 3 4; do chunkserver $n; done
within 30 servers 4 || die "not 4 servers"
head -c "${MIB}M" /dev/urandom > source
want=$(sha256sum < source)
copy() { run copy "$CAIRN" cp source "cairn:/$1"; }
halfway() { [ "$(du -sm "$WORK"/cs* | awk '{s += $1} END {print s}')" -ge "$1" ]; }
before() { du -sm "$WORK"/cs* | awk '{s += $1} END {print s}'; }

copy killed-chunkserver
within 120 halfway $((MIB * 3 / 2)) || die "the copy does not go on"
end KILL cs2; killed=$SECONDS
say "killed a chunkserver in mid-copy"
wait "${PID[copy]}" || die "the copy failed: $(tail -3 copy.log)"; unset "PID[copy]"
say "copy finished $((SECONDS - killed)) s after the kill"
[ "$("$CAIRN" cp cairn:/killed-chunkserver - | sha256sum)" = "$want" ] || die "the hash is wrong"
within $((DELAY + 60)) goal /killed-chunkserver 3 || die "not every chunk is back at 3 replicas"
within 20 healthy || die "not healthy: $(status)"
say "right hash, every chunk at 3 replicas $((SECONDS - killed)) s after the kill (repair delay $DELAY s)"

chunkserver 2
within 30 servers 4 || die "the killed server is not back"
base=$(before)
copy killed-master
within 120 halfway $((base + MIB * 3 / 2)) || die "the copy does not go on"
end KILL master
say "killed the master in mid-copy"
sleep 5  # the bar says how long it is away
master "${M[@]}"
wait "${PID[copy]}" || die "the copy failed: $(tail -3 copy.log)"; unset "PID[copy]"
[ "$("$CAIRN" cp cairn:/killed-master - | sha256sum)" = "$want" ] || die "the hash is wrong"
within $((DELAY + 60)) goal /killed-master 3 || die "not every chunk at 3 replicas"
say "right hash after the master's restart"
end TERM cs1 cs2 cs3 cs4 master
say "passed"
