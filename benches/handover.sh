#!/usr/bin/env bash
# How long shards decide nothing while they change their owner, with a Cassandra of one node on the same machine and an
# open loop at a part of what it served in a closed one: a third node joins, and leaves again with SIGTERM; so often in
# turn.
#
#   cargo build --release --workspace && benches/handover.sh [PERCENT_OF_PEAK] [ROUNDS] [CONNECTIONS]
#
# Needs what ops/cassandra.sh needs. MEED: the binary, else that of the release.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/node.sh
percent=${1:-50} rounds=${2:-3} connections=${3:-32}
WARMUP_SECONDS=30 WAIT_SECONDS_MAX=60 SHARDS=16
work=$(mktemp -d "$PWD/target/handover.XXXXXX")
export MEED_CASSANDRA_DIR=$work/cassandra MEED_CASSANDRA_PORT=19443
load=
declare -A nodes=() urls=() pages=()
finish() {
    for process in "${nodes[@]}" $load; do
        kill -9 "$process" 2>/dev/null && wait "$process" 2>/dev/null || true
    done
    ops/cassandra.sh erase >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

start() { # NODE
    start_node "$1" --journal cql --cql-nodes 127.0.0.1:19443 --cql-keyspace handover --node "$1" --shards $SHARDS
    nodes[$1]=$node urls[$1]=$url pages[$1]=$metrics
}
owned() { metrics=${pages[$1]} measure meed_cluster_shards_owned; }
wait_for() { # NODE SHARDS
    local deadline=$((SECONDS + WAIT_SECONDS_MAX))
    until [ "$(owned "$1")" = "$2" ]; do
        ((SECONDS < deadline)) || { echo "handover: $1 has $(owned "$1") shards" >&2 && exit 1; }
        sleep 0.1
    done
}

ops/cassandra.sh start
start first
start second
wait_for first $((SHARDS / 2))
wait_for second $((SHARDS / 2))
target/release/meed-loadtest run half-peak-64 --quiet --target "${urls[first]}" \
    --set connections="$connections" --set "stages.0.percent_of_peak=$percent" \
    --set "stages.1.percent_of_peak=$percent" --set "stages.1.seconds=$((WARMUP_SECONDS + rounds * WAIT_SECONDS_MAX * 2))" \
    --set validity.lag_p99_us_max=60000000 --out "$work/result" >"$work/load" &
load=$!
sleep $WARMUP_SECONDS # the Java machine compiles what it runs often
since=$(date -u +%Y-%m-%dT%H:%M:%S)
for _ in $(seq "$rounds"); do
    start third
    wait_for third $((SHARDS / 3))
    sleep 2
    kill "${nodes[third]}"
    wait "${nodes[third]}"
    wait_for first $((SHARDS / 2))
    wait_for second $((SHARDS / 2))
done
kill -INT $load
wait $load || true # the run was broken off, which its verdict may not like
load=
cat "$work/load"
# From the logs: from when a shard that goes lets its commands wait until it has begun elsewhere.
sort -s -k1,1 "$work"/*.log | sed 's/\x1b\[[0-9;]*m//g' | awk -v since="$since" '
    function field(name) { return match($0, " " name "=[0-9]+") ? substr($0, RSTART + length(name) + 2, RLENGTH - length(name) - 2) : "" }
    function ms() { split(substr($1, 12, 15), at, ":"); return ((at[1] * 60 + at[2]) * 60 + at[3]) * 1000 }
    $1 < since { next }
    /a shard was given away/ { given[field("shard")] = ms() - field("pause_ms"); quiet[field("shard")] = field("quiet_ms"); gave[field("shard")] = field("pause_ms") }
    /a shard has begun/ && (field("shard") in given) {
        shard = field("shard")
        printf "%d ms: quiet after %d, given after %d; claim %d, begun %d after it\n", ms() - given[shard], quiet[shard], gave[shard], field("claim_ms"), field("took_ms")
        delete given[shard]
    }' | sort -n >"$work/pauses"
cat "$work/pauses"
awk '{ pause[NR] = $1; below += $1 < 300 } END { printf "%d shards moved: median %d ms, longest %d ms, %d below 300 ms\n", NR, pause[int((NR + 1) / 2)], pause[NR], below }' "$work/pauses"
