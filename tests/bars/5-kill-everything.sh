#!/bin/bash
# Bar 5: kill -9 of all processes at a random moment during writes, ROUNDS times; after each restart every file whose
# `cairn cp` or fsync had returned is there and right, the cluster is healthy, and no chunk is falsely corrupt.
. "$(dirname "$0")/common.sh"
ROUNDS=${ROUNDS:-20} SEED=${SEED:-$RANDOM}
say "SEED=$SEED"; RANDOM=$SEED
cd "$WORK"; mkdir -p mnt state
start_all() {
  master --repair-delay 2s
  within 20 status || die "the master does not answer: $(tail -3 master.log)"
  for n in 1 2 3; do chunkserver $n; done
  within 60 servers 3 || die "not 3 servers"
  run mount "$CAIRN" mount "$WORK/mnt"
  within 60 mountpoint -q "$WORK/mnt" || die "not mounted: $(tail -3 mount.log)"
}
# writers note NAME and SHA-256 in state/done.* only after cp or fsync has returned
writer_cp() {
  local i=0 f
  while :; do
    f=$WORK/state/src.cp; head -c $((RANDOM * 200 + 1)) /dev/urandom > "$f"
    "$CAIRN" cp "$f" "cairn:/cp-$1-$i" > /dev/null 2>&1 || exit 0
    echo "/cp-$1-$i $(sha256sum < "$f" | cut -d' ' -f1)" >> "$WORK/state/done.cp"; i=$((i + 1))
  done
}
writer_fsync() {
  /usr/bin/python3 - "$WORK/mnt" "$1" "$WORK/state/done.fsync" "$RANDOM" <<'P'
import hashlib, os, random, sys
mnt, r, done, seed = sys.argv[1:]; rnd = random.Random(int(seed)); i = 0
log = open(done, "a")
try:
    while True:
        name = f"fs-{r}-{i}"; data = rnd.randbytes(rnd.choice([100, 5000, 70000, 3000000]))
        fd = os.open(f"{mnt}/{name}", os.O_CREAT | os.O_RDWR); 
        os.write(fd, data); os.fsync(fd)
        if rnd.random() < 0.5:   # overwrite in place, sync again
            at = rnd.randrange(len(data)); part = rnd.randbytes(min(9000, len(data) - at))
            os.pwrite(fd, part, at); os.fsync(fd); data = data[:at] + part + data[at + len(part):]
        print(f"/{name} {hashlib.sha256(data).hexdigest()}", file=log, flush=True)
        os.pwrite(fd, data, 0)   # the same bytes again, unsynced: the kill may come here
        os.close(fd); i += 1
except OSError: pass
P
}
start_all
for round in $(seq "$ROUNDS"); do
  run wcp writer_cp "$round"; run wfs writer_fsync "$round"
  sleep "$(awk -v r=$RANDOM 'BEGIN{print 0.5 + r / 32768 * 3}')"  # the random moment
  kill -9 "${PID[mount]}" "${PID[master]}" "${PID[cs1]}" "${PID[cs2]}" "${PID[cs3]}"
  end KILL mount master cs1 cs2 cs3
  end TERM wcp wfs
  start_all
  cat state/done.* 2>/dev/null | while read -r path sum; do
    [ "$("$CAIRN" cat "$path" | sha256sum | cut -d' ' -f1)" = "$sum" ] || { echo "$path is wrong" >&2; exit 1; }
  done || die "round $round (SEED=$SEED)"
  within 60 healthy || die "round $round: not healthy: $(status)"
  corrupt=$(status | jq .health.corrupt_found)
  [ "$corrupt" = 0 ] || die "round $round: $corrupt chunks taken for corrupt"
  say "round $round: $(cat state/done.* | wc -l) files right"
done
"$CAIRN" admin scrub --now --wait
[ "$(status | jq .health.corrupt_found)" = 0 ] || die "scrub found corruption"
end TERM mount cs1 cs2 cs3 master
say "passed"
