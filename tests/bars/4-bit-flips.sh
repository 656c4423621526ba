#!/bin/bash
# Bar 4: one flipped bit in a chunk file, in its data, its table, its header, on each replica in turn, client cache
# dropped: found by a read directed there and by `cairn admin scrub --now`; every read returns right bytes, the bad
# replica is reported and replaced, and the status shows it. In two replicas: still right. In all three: EIO, and a log
# line that names the file, chunk and offset.
. "$(dirname "$0")/common.sh"
FLIP="/usr/bin/python3 $ROOT/tests/bars/read_chunk.py --flip"
cd "$WORK"; mkdir -p mnt
master --repair-delay 2s
within 20 status || die "the master does not answer"
for n in 1 2 3; do chunkserver $n; done
within 30 servers 3 || die "not 3 servers"
run mount "$CAIRN" mount "$WORK/mnt"
within 20 mountpoint -q mnt || die "not mounted"
head -c 3M /dev/urandom > source; want=$(sha256sum < source)
chunk_of() { "$CAIRN" chunks --json "$1" | jq -r '.chunks[0].handle'; }
file_at() { find "$WORK/cs$2" -name "$1.chunk"; }
count() { status | jq ".health.$1"; }
repaired() { [ "$(count corrupt_repaired)" -gt "$1" ]; }
clean() { /usr/bin/python3 "$ROOT/tests/bars/read_chunk.py" "$WORK"/cs1 "$WORK"/cs2 "$WORK"/cs3; }
right() { [ "$("$CAIRN" cat "$1" | sha256sum)" = "$want" ] && [ "$(sha256sum < "mnt$1")" = "$want" ]; }
drop() { dd "if=mnt$1" iflag=nocache count=0 status=none; } # the client's pages of that file

for how in read scrub; do for what in data table header; do for server in 1 2 3; do
  f=/$how-$what-$server; "$CAIRN" cp source cairn:$f
  file=$(file_at "$(chunk_of $f)" $server); before=$(count corrupt_repaired)
  $FLIP "$file" $what; drop $f
  if [ $how = read ]; then
    # reads each replica
    if "$CAIRN" fsck "$f" > fsck.out 2>&1; then die "fsck did not see the flipped bit in $file: $(cat fsck.out)"; fi
    grep -q "127.0.0.1:$((PORT + 10 * server)): .*corrupt" fsck.out || die "fsck does not name the replica: $(cat fsck.out)"
  else
    "$CAIRN" admin scrub --now --wait
  fi
  right $f || die "$f: wrong bytes with one bad replica"
  within 30 repaired "$before" || die "$f: not repaired: $(status)"
  within 30 healthy || die "$f: not healthy"
  within 30 clean || die "$f: still bad on disk: $(clean)"
  "$CAIRN" fsck "$f" > fsck.out 2>&1 || die "fsck after repair: $(cat fsck.out)"
  "$CAIRN" rm $f
  say "$how, $what, server $server: found, right bytes, repaired"
done; done; done

f=/two; "$CAIRN" cp source cairn:$f; chunk=$(chunk_of $f)
for s in 1 2; do $FLIP "$(file_at "$chunk" $s)" data; done; drop $f
right $f || die "two bad replicas: wrong bytes"
"$CAIRN" admin scrub --now --wait
within 60 clean || die "two bad replicas: not repaired"
say "two replicas: right bytes, repaired"

f=/three; "$CAIRN" cp source cairn:$f; chunk=$(chunk_of $f)
for s in 1 2 3; do $FLIP "$(file_at "$chunk" $s)" data; done; drop $f
"$CAIRN" cat $f > out 2> err && die "three bad replicas: no error"
cat mnt$f > out2 2> err2 && die "three bad replicas: the mount gave no error"
grep -q 'Input/output error' err2 || die "not EIO: $(cat err2)"
grep -q "three.*$chunk" mount.log || die "no log line names file and chunk: $(tail -5 mount.log)"
say "three replicas: EIO; $(grep "three.*$chunk" mount.log | tail -1)"
end TERM mount cs1 cs2 cs3 master
say "passed"
