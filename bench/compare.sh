#!/bin/bash
# compare.sh OUTDIR [SYSTEM...]: Cairn beside a peer (default: cairn moosefs), in one run on one machine, alternating;
# every group of parts gets a fresh cluster each time. ROUNDS (default 1) runs of each; the table, with the ratio
# of the first system to the second, goes to OUTDIR/table.md. `limits` among the systems: the bare floors, once a round.
set -u
HERE=$(cd "$(dirname "$0")" && pwd); P=$HERE/peers
O=${1:?usage: compare.sh OUTDIR [SYSTEM...]}; shift; mkdir -p "$O"
SYSTEMS=${*:-cairn moosefs} ROUNDS=${ROUNDS:-1}
ALL="plain nullfuse bindfs cairn moosefs glusterfs cephfs"
IFS=';' read -r -a GROUPS_OF_PARTS <<< "${GROUPS_OF_PARTS:-idle stream;par;meta1 meta8;fio;untar}"
for other in $ALL; do "$P/$other.sh" down > /dev/null 2>&1; done
rm -f "$O"/*.run
for round in $(seq "$ROUNDS"); do for parts in "${GROUPS_OF_PARTS[@]}"; do for n in $SYSTEMS; do
  [ "$n" != limits ] || continue
  echo "== round $round, $n: $parts $(date +%T)" >&2
  if m=$("$P/$n.sh" up 2> "$O/$n.up" | tail -1) && [ -d "$m" ]; then
    # shellcheck disable=SC2086
    "$P/bench.sh" "$m" $parts >> "$O/$n.$round.run" 2>> "$O/$n.err" || echo "$n: bench failed, see $O/$n.err" >&2
  else echo "$n: did not come up, see $O/$n.up" >&2; fi
  "$P/$n.sh" rss >> "$O/$n.$round.run"
  "$P/$n.sh" down >&2
done; done
if [[ " $SYSTEMS " = *" limits "* ]]; then
  echo "== round $round, limits $(date +%T)" >&2
  "$P/limits.sh" >> "$O/limits.$round.run" 2>> "$O/limits.err" || echo "limits: failed, see $O/limits.err" >&2
fi; done
# shellcheck disable=SC2086
"$HERE/compare.py" "$O" $SYSTEMS > "$O/table.md"
cat "$O/table.md"
