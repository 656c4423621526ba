#!/bin/bash
# run.sh OUTDIR [NAME...]: each system alone; the figures to OUTDIR/NAME, a table of all to OUTDIR/table.md.
# Every group of parts gets a fresh cluster: MooseFS does not give the space of deleted files back soon
# enough for a 12 GiB tmpfs, and so no group works on what another has left.
set -u
HERE=$(cd "$(dirname "$0")" && pwd); O=${1:?usage: run.sh OUTDIR [NAME...]}; shift; mkdir -p "$O"
ALL="plain nullfuse bindfs cairn moosefs glusterfs cephfs"
for n in ${*:-$ALL}; do
  : > "$O/$n"; : > "$O/$n.err"
  for parts in "idle stream" "par" "meta1 meta8 fio untar"; do
    for other in $ALL; do "$HERE/$other.sh" down > /dev/null 2>&1; done
    echo "== $n: $parts $(date +%T)" >&2
    if m=$("$HERE/$n.sh" up 2> "$O/$n.up" | tail -1) && [ -d "$m" ]; then
      # shellcheck disable=SC2086
      "$HERE/bench.sh" "$m" $parts >> "$O/$n" 2>> "$O/$n.err" || echo "$n: bench failed, see $O/$n.err" >&2
    else echo "$n: did not come up, see $O/$n.up" >&2; fi
    "$HERE/$n.sh" down >&2
  done
done
"$HERE/table.py" "$O" > "$O/table.md"
