#!/usr/bin/env bash
# The rate on CQL, with a Cassandra of one node on the same machine: earns over HTTP, how many records one conditional
# write has, and how many conditional writes of one record each the same Cassandra takes.
#
#   cargo build --release --workspace && benches/cql_rate.sh [SECONDS] [CONNECTIONS]
#
# Needs wrk, and what ops/cassandra.sh needs. MEED_FLAGS: further flags of the node.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10} connections=${2:-256}
work=$(mktemp -d "$PWD/target/cql-rate.XXXXXX")
export MEED_CASSANDRA_DIR=$work/cassandra MEED_CASSANDRA_PORT=19442
node=
finish() {
    if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; wait "$node" 2>/dev/null || true; fi
    ops/cassandra.sh erase >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

cat >"$work/earn.lua" <<'LUA'
local threads = 0
function setup(thread) thread:set("number", threads); threads = threads + 1 end
function init() math.randomseed(os.time() + number); count = 0 end
function request()
  count = count + 1
  local body = '{"points":10,"reference_id":"' .. number .. '-' .. os.time() .. '-' .. count .. '"}'
  return wrk.format("POST", "/api/v1/points/m-" .. math.random(100000) .. "/earn", {["Content-Type"] = "application/json"}, body)
end
LUA

ops/cassandra.sh start
read -ra flags <<<"${MEED_FLAGS:-}"
target/release/meed --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --journal cql --cql-nodes 127.0.0.1:19442 \
    --node rate --shards 16 "${flags[@]}" >"$work/out" 2>>"$work/log" &
node=$!
until grep -q '^metrics on' "$work/out"; do sleep 0.05; kill -0 "$node"; done
url=$(sed -n 's/^listening on //p' "$work/out")
metrics=$(sed -n 's/^metrics on //p' "$work/out")/metrics
measure() { curl -s "$metrics" | sed -n "s/^$1 //p" | cut -d. -f1; }
cassandra_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/$(cat "$MEED_CASSANDRA_DIR/pid")/stat"; }
node_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/$node/stat"; }
# The Java machine compiles what it runs often.
wrk -t2 -c"$connections" -d5s -s "$work/earn.lua" "$url" >/dev/null
records=$(measure meed_journal_batch_records_sum) writes=$(measure meed_journal_batch_records_count)
rows=$(measure meed_history_rows_total) cassandra=$(cassandra_ms) own=$(node_ms)
wrk -t2 -c"$connections" -d"${seconds}s" --latency -s "$work/earn.lua" "$url" >"$work/wrk"
records=$(($(measure meed_journal_batch_records_sum) - records)) writes=$(($(measure meed_journal_batch_records_count) - writes))
rate=$(awk '/^Requests\/sec/ { print int($2) }' "$work/wrk")
echo "$rate earns a second over $connections connections; $((records / writes)) records with each of $((writes / seconds)) conditional writes a second"
echo "processor time a second: Cassandra $((($(cassandra_ms) - cassandra) / seconds)) ms, node $((($(node_ms) - own) / seconds)) ms"
echo "history: $((($(measure meed_history_rows_total) - rows) / seconds)) rows a second, $(measure meed_history_lag_records) records behind at the end"
grep -E '^ +(50|99)%|Non-2xx' "$work/wrk" || true
kill "$node"; wait "$node" || true; node=
for writers in 16 256; do
    target/release/cql_appends --nodes 127.0.0.1:19442 --keyspace "appends$writers" --writers "$writers" --seconds "$seconds" --warmup-seconds 3
done
