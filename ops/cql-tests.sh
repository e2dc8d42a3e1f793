#!/usr/bin/env bash
# The tests on a real Cassandra, which this starts in a folder and on a port of its own and removes again:
#
#   ops/cql-tests.sh [nodes|contract|stream|ring]
#                                                all of them, or only those of nodes and servers that end, of the
#                                                contract, of the stream, or of the stream on a ring of three servers;
#                                                those of the stream need a Kafka as well
#   ops/cql-tests.sh figures                     how long shards are away while they change their owner; in none of the
#                                                others. MEED_BINARY names a release
#
# Where Cassandra cannot be had it says so, and ends with exit code 69.
set -euo pipefail
cd "$(dirname "$0")/.."
EXIT_UNAVAILABLE=69
part=${1:-all}
case $part in
all | nodes | contract | stream | ring | figures) ;;
*) echo "cql-tests: there is no part $part" >&2 && exit 2 ;;
esac
# Tests run in their package's folder.
if [[ -n ${MEED_BINARY:-} ]]; then MEED_BINARY=$(realpath "$MEED_BINARY") && export MEED_BINARY; fi

# Files of the contract of the HTTP interface, each on a keyspace of its own.
CONTRACT=(accounts corners earn holds idempotency input programs reversals tills)

export MEED_CASSANDRA_LOGIN=1 MEED_CASSANDRA_PORT=${MEED_CASSANDRA_PORT:-19142}
export MEED_CASSANDRA_DIR=${MEED_CASSANDRA_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/cassandra-tests}
ops/cassandra.sh erase >/dev/null
status=0
ops/cassandra.sh start || status=$?
if ((status == EXIT_UNAVAILABLE)); then
    echo "DID NOT RUN: the tests on Cassandra (engine: cql_server; gateway: cql, contract_* with --journal cql; benches: kafka_cql, kafka_nodes)" >&2
fi
((status == 0)) || exit "$status"
trap 'ops/cassandra.sh erase' EXIT
password=$MEED_CASSANDRA_DIR/password
echo cassandra >"$password"
export MEED_TEST_CQL=127.0.0.1:$MEED_CASSANDRA_PORT MEED_TEST_CASSANDRA=$PWD/ops/cassandra.sh
export MEED_TEST_CQL_PASSWORD=$password
if [[ $part == all || $part == nodes ]]; then
    cargo test --workspace --test cql_server -- --test-threads 1
    cargo test --workspace --test cql -- --test-threads 1 --nocapture --skip figures
fi
if [[ $part == figures ]]; then
    cargo test --workspace --test cql -- --nocapture figures
fi
if [[ $part == all || $part == contract ]]; then
    for name in "${CONTRACT[@]}"; do
        MEED_JOURNAL=cql MEED_CQL_NODES=$MEED_TEST_CQL MEED_CQL_USER=cassandra MEED_CQL_PASSWORD_FILE=$password \
            MEED_CQL_KEYSPACE=contract_$name cargo test --workspace --test "contract_$name" -- --test-threads 8
    done
    # Those that need no data folder.
    MEED_JOURNAL=cql MEED_CQL_NODES=$MEED_TEST_CQL MEED_CQL_USER=cassandra MEED_CQL_PASSWORD_FILE=$password \
        MEED_CQL_KEYSPACE=contract_history cargo test --workspace --test contract_history -- \
        pages_ parameters_ a_row_ an_award_
fi
if [[ $part == all || $part == stream || $part == ring ]]; then
    on_stream=(cargo test --workspace --features meed-benches/server-tests)
    if ops/kafka.sh available; then
        cargo test --quiet --workspace --no-run
        if [[ $part != ring ]]; then
            "${on_stream[@]}" --test kafka_cql --test kafka_nodes -- --test-threads 1 --nocapture --skip ring
        fi
        if [[ $part != stream ]]; then
            # Three servers take the place of the one.
            ops/cassandra.sh stop
            "${on_stream[@]}" --test kafka_nodes -- --nocapture ring
        fi
    else
        echo "DID NOT RUN: the stream of nodes on Cassandra (benches: kafka_cql, kafka_nodes)" >&2
    fi
fi
