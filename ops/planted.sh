#!/usr/bin/env bash
# Plants each fault of engine/src/planted.rs in turn, and looks for it with the simulator; those of one node and those of
# a cluster side by side.
#
#   ops/planted.sh [SEARCHES]       how often each is looked for; by default often enough to know how many seeds it takes
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -n ${1:-} ]]; then export MEED_PLANTED_SEARCHES=$1; fi

# The engine is optimized a little; the rest is what `cargo test` has built.
planted=(cargo test --workspace --features meed-engine/planted --config profile.dev.package.meed-engine.opt-level=1
    --config profile.dev.package.meed-schemas.opt-level=1)
"${planted[@]}" --test planted --test planted_nodes --no-run
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${planted[@]}" --test planted_nodes -- --nocapture >"$log" 2>&1 &
nodes=$!
status=0
"${planted[@]}" --test planted -- --nocapture || status=$?
wait "$nodes" || status=$?
cat "$log"
exit "$status"
