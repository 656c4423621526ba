#!/bin/bash
# Cairn: one master, three chunkserver processes, each with an address of its own, goal 3, FUSE mount. Trash off, as
# MooseFS has it here; otherwise the defaults. Builds the binary as it ships first, or takes the one that $CAIRN names.
. "$(dirname "$0")/common.sh"
D=$RAM/cairn
M=10.77.0.1
ROOT=$(cd "$HERE/../.." && pwd)
CAIRN=${CAIRN:-}

up() {
  [ -n "$CAIRN" ] || CAIRN=$("$ROOT/deploy/build.sh") || die "cairn does not build"
  mkdir -p $D/{master,mnt}
  start master "$CAIRN" master --data $D/master --listen $M:7400 --trash-keep 0s
  until_ok 20 healthy $M:7400 || die "master does not answer: $D/log"
  local i a
  for i in 1 2 3; do
    a=10.77.0.$((1+i)); mkdir -p $D/cs$i
    start cs$i "$CAIRN" chunkserver --master $M:7400 --disk $D/cs$i --listen $a:7401 --health-listen $a:7402
  done
  for i in 1 2 3; do until_ok 30 healthy 10.77.0.$((1+i)):7402 || die "chunkserver $i does not answer: $D/log"; done
  start mount "$CAIRN" mount --master $M:7400 $D/mnt
  until_ok 20 mountpoint -q $D/mnt || die "cairn did not mount: $D/log"
  until_ok 30 writable || die "not writable: $D/log"
}
healthy() { ns timeout 5 "$CAIRN" health "$1"; }
writable() { echo x > $D/mnt/.probe && sync $D/mnt/.probe && rm $D/mnt/.probe; }
down() {
  unmount $D/mnt
  stop mount cs1 cs2 cs3 master
  remove_data $D
}
dispatch "${1:-}"
