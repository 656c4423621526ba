#!/bin/bash
# Bar 1: a mounted cluster by one command; a file of random bytes (5 GiB) in and out by cp and by `cairn cp` has the same
# SHA-256, its chunks three replicas on three servers; and the data and checksums on disk agree by a reader of the format
# that is no part of the chunkserver (tests/bars/read_chunk.py).
. "$(dirname "$0")/common.sh"
MIB=${MIB:-5120}
cd "$WORK"
run up "$CAIRN" up --mount "$WORK/mnt" --data "$WORK/data" --listen "127.0.0.1:$PORT"
within 60 mountpoint -q "$WORK/mnt" || die "not mounted: $(tail -3 "$WORK/up.log")"
head -c "${MIB}M" /dev/urandom > source
want=$(sha256sum < source)
say "cp in"; cp source mnt/a
say "cairn cp in"; "$CAIRN" cp source cairn:/b
echo 1 > /proc/sys/vm/drop_caches
say "cp out"; cp mnt/b out1; [ "$(sha256sum < out1)" = "$want" ] || die "cp out differs"; rm out1
say "cairn cp out"; "$CAIRN" cp cairn:/a out2; [ "$(sha256sum < out2)" = "$want" ] || die "cairn cp out differs"; rm out2
for f in a b; do
  n=$("$CAIRN" chunks --json /$f | jq '.chunks | length')
  [ "$n" = $(((MIB + 63) / 64)) ] || die "/$f has $n chunks"
  goal /$f 3 || die "/$f: a chunk without 3 replicas on 3 servers"
  say "/$f: $n chunks at 3 replicas on 3 servers, same SHA-256"
done
sync mnt/a mnt/b
/usr/bin/python3 "$ROOT/tests/bars/read_chunk.py" "$WORK"/data/cs*/ || die "data and checksums on disk disagree"
end INT up
say "passed"
