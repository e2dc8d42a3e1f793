#!/usr/bin/env bash
# The rate on CQL, with a Cassandra of one node on the same machine: earns over HTTP, and how many records one
# conditional write has, and the same with one operation in each conditional write, twice in turn; and how many
# conditional writes of one record each the same Cassandra takes when it does nothing else.
#
#   cargo build --release --workspace && benches/cql_rate.sh [SECONDS] [CONNECTIONS] [WARMUP_SECONDS]
#
# Needs wrk, and what ops/cassandra.sh needs. MEED_FLAGS: further flags of the node. MEED: the binary, else that of the
# release.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/node.sh
seconds=${1:-10} connections=${2:-256} warmup=${3:-40} # the Java machine compiles what it runs often, for half a minute
work=$(mktemp -d "$PWD/target/cql-rate.XXXXXX")
export MEED_CASSANDRA_DIR=$work/cassandra MEED_CASSANDRA_PORT=19442
node=
finish() {
    if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; wait "$node" 2>/dev/null || true; fi
    ops/cassandra.sh erase >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap finish EXIT

run() { # KEYSPACE [FLAGS]
    local keyspace=$1 cassandra records writes rows used own
    shift
    echo "-- $keyspace"
    start_node "$keyspace" --journal cql --cql-nodes 127.0.0.1:19442 --cql-keyspace "$keyspace" --node rate --shards 16 "$@"
    cassandra=$(cat "$MEED_CASSANDRA_DIR/pid")
    wrk -t2 -c"$connections" -d"${warmup}s" -s benches/wrk/earn_rate.lua "$url" >/dev/null
    records=$(measure meed_journal_batch_records_sum) writes=$(measure meed_journal_batch_records_count)
    rows=$(measure meed_history_rows_total) used=$(used_ms "$cassandra") own=$(used_ms "$node")
    wrk -t2 -c"$connections" -d"${seconds}s" --latency -s benches/wrk/earn_rate.lua "$url" >"$work/wrk"
    records=$(($(measure meed_journal_batch_records_sum) - records))
    writes=$(($(measure meed_journal_batch_records_count) - writes))
    echo "$(awk '/^Requests\/sec/ { print int($2) }' "$work/wrk") earns a second over $connections connections;" \
        "$((records / writes)) records with each of $((writes / seconds)) conditional writes a second"
    echo "processor time a second: Cassandra $((($(used_ms "$cassandra") - used) / seconds)) ms, node $((($(used_ms "$node") - own) / seconds)) ms"
    echo "history: $((($(measure meed_history_rows_total) - rows) / seconds)) rows a second, $(measure meed_history_lag_records) records behind"
    grep -E '^ +(50|99)%|Non-2xx' "$work/wrk" || true
    stop_node
}

ops/cassandra.sh start
read -ra flags <<<"${MEED_FLAGS:-}"
run warm_up "${flags[@]}"
warmup=5
for round in 1 2; do
    run "batches_$round" "${flags[@]}"
    run "one_by_one_$round" --cql-batch-bytes 1 "${flags[@]}"
done
target/release/cql_appends --nodes 127.0.0.1:19442 --keyspace appends --writers 16 --seconds "$seconds" --warmup-seconds 2
