# Sourced by the bars: a scratch directory, the release binary, real processes kept by pid, and their end.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CAIRN=${CAIRN:-$ROOT/target/release/cairn}
WORK=${WORK:-$(mktemp -d "${TMPDIR:-/var/tmp}/cairn-bar.XXXXXX")}
declare -A PID=()

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
[ -x "$CAIRN" ] || cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml"

# run NAME CMD...: a process of ours, its output in $WORK/NAME.log
run() {
  local name=$1; shift
  "$@" >> "$WORK/$name.log" 2>&1 &
  PID[$name]=$!
}
# end SIGNAL NAME...: and wait for it to be gone
end() {
  local signal=$1 name; shift
  for name; do
    [ -n "${PID[$name]:-}" ] || continue
    kill "-$signal" "${PID[$name]}" 2>/dev/null || true
  done
  for name; do
    [ -n "${PID[$name]:-}" ] || continue
    wait "${PID[$name]}" 2>/dev/null || true
    unset "PID[$name]"
  done
}
cleanup() {
  local code=$? name
  for name in "${!PID[@]}"; do kill -TERM "${PID[$name]}" 2>/dev/null || true; done
  for name in "${!PID[@]}"; do wait "${PID[$name]}" 2>/dev/null || true; done
  if grep -q " $WORK/mnt " /proc/mounts; then umount -l "$WORK/mnt" || true; fi
  if [ "$code" = 0 ]; then rm -rf --one-file-system "$WORK"; else echo "kept: $WORK" >&2; fi
}
trap cleanup EXIT

# within SECONDS CMD...: until it succeeds
within() {
  local limit=$((SECONDS + $1)); shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $limit ] || return 1
    sleep 0.2
  done
}
PORT=${PORT:-17400}
export CAIRN_MASTER=127.0.0.1:$PORT
master() { run master "$CAIRN" master --data "$WORK/master" --listen "127.0.0.1:$PORT" "$@"; }
chunkserver() { # N ARGS...
  local n=$1; shift
  mkdir -p "$WORK/cs$n"
  run "cs$n" "$CAIRN" chunkserver --master "$CAIRN_MASTER" --disk "$WORK/cs$n" \
    --listen "127.0.0.1:$((PORT + 10 * n))" --health-listen "127.0.0.1:$((PORT + 10 * n + 1))" "$@"
}
status() { "$CAIRN" admin status --json; }
# servers N: that many are up
servers() { status | jq -e --argjson n "$1" '[.servers[] | select(.up)] | length == $n and (. | type) != "null"' ; }
# healthy: nothing under goal, nothing being rebuilt
healthy() { status | jq -e '.health.under_goal == 0 and .health.lost == 0 and .health.endangered == 0 and .health.reconfiguring == 0'; }
# goal PATH N: every chunk of it has N replicas on N servers
goal() { "$CAIRN" chunks --json "$1" | jq -e --argjson n "$2" 'all(.chunks[]; (.replicas | map(.server) | unique | length) == $n)'; }
