#!/usr/bin/env bash
# The tests that need servers, each server started by its script, and stopped if it was not running before:
#
#   ops/server-tests.sh          all of them
#   ops/server-tests.sh cql      those on a real Cassandra
#
# Where a server cannot be had, it says which tests did not run, and ends with exit code 69.
set -euo pipefail
cd "$(dirname "$0")/.."
EXIT_UNAVAILABLE=69
wanted=${1:-all}
missing=()

# The contract of the HTTP interface, every file of it on a keyspace of its own.
CONTRACT=(accounts corners earn history holds idempotency input programs random reversals tills)

cql() {
    local status=0 name
    export MEED_CASSANDRA_LOGIN=1 MEED_CASSANDRA_PORT=${MEED_CASSANDRA_PORT:-19142}
    export MEED_CASSANDRA_DIR=${MEED_CASSANDRA_DIR:-${CARGO_TARGET_DIR:-$PWD/target}/cassandra-tests}
    ops/cassandra.sh erase >/dev/null
    ops/cassandra.sh start || status=$?
    if ((status == EXIT_UNAVAILABLE)); then
        missing+=("the tests on Cassandra (engine: cql_server, gateway: cql, contract_* with --journal cql)")
        return
    fi
    ((status == 0)) || exit "$status"
    trap 'ops/cassandra.sh erase' EXIT
    local password=$MEED_CASSANDRA_DIR/password
    echo cassandra >"$password"
    export MEED_TEST_CQL=127.0.0.1:$MEED_CASSANDRA_PORT MEED_TEST_CASSANDRA=$PWD/ops/cassandra.sh
    export MEED_TEST_CQL_PASSWORD=$password
    cargo test -p meed-engine --test cql_server -- --test-threads 1
    cargo test -p meed-gateway --test cql -- --test-threads 1
    for name in "${CONTRACT[@]}"; do
        MEED_JOURNAL=cql MEED_CQL_NODES=$MEED_TEST_CQL MEED_CQL_USER=cassandra MEED_CQL_PASSWORD_FILE=$password \
            MEED_CQL_KEYSPACE=contract_$name cargo test -p meed-gateway --test "contract_$name"
    done
    ops/cassandra.sh erase
    trap - EXIT
}

case $wanted in
all | cql) cql ;;
*) sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
if ((${#missing[@]} > 0)); then
    printf 'DID NOT RUN: %s\n' "${missing[@]}" >&2
    exit "$EXIT_UNAVAILABLE"
fi
