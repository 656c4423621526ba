#!/bin/bash
# limits.sh: the bare floors of this machine (`limits/`), in the peers' namespace and tmpfs, as `name value unit` lines.
. "$(dirname "$0")/common.sh"
D=$RAM/limits MIB=${MIB:-1024}
L=$HERE/limits/target/release/limits
cargo build --release --locked --quiet --manifest-path "$HERE/limits/Cargo.toml"
base; mkdir -p $D
trap 'rm -rf --one-file-system "$D"' EXIT
{
  ns /usr/bin/python3 "$HERE/warm.py" $((MIB * 7 / 2)) "$L" chain $D "$MIB"
  ns /usr/bin/python3 "$HERE/warm.py" $((MIB * 3 / 2)) "$L" read $D "$MIB"
  ns "$L" small $D 2000 1
  ns "$L" small $D 500 8
  ns "$L" rpc 1
} | awk 'NF == 3; NF == 5 {print $1, $2, $3; print $1 "_cpu", $4, $5}'
