#!/usr/bin/env bash
# The tests that need real servers. They start their own, on ports and in folders of their own, and stop them.
# Where a server cannot be had, or nothing can be mounted for a disk to be full, this says which tests did not run, and
# ends with 0; with --all it then ends with 1.
#
#   ops/server-tests.sh [--all]
#   ops/server-tests.sh kafka|nodes|contract|stream|ring      a part of them: on Kafka, or one of ops/cql-tests.sh
set -euo pipefail
cd "$(dirname "$0")/.."
part=all
missing=()
case ${1:-} in
'') ;;
--all) export MEED_TEST_ALL=1 ;;
*) part=$1 ;;
esac

if [[ $part == all || $part == kafka ]]; then
    if ops/kafka.sh available; then
        cargo test --quiet --workspace --no-run
        cargo test --workspace --features meed-benches/server-tests --test kafka -- --test-threads 1 --nocapture
    else
        missing+=("Kafka (benches/tests/kafka.rs: broker killed, slow, paused, topic missing, node killed)")
    fi
fi

if [[ $part != kafka ]]; then
    status=0
    ops/cql-tests.sh "$part" || status=$?
    case $status in
    0) ;;
    69) missing+=("Cassandra (ops/cql-tests.sh $part: nodes and servers killed and paused, the contract on CQL)") ;;
    *) exit "$status" ;;
    esac
fi

for which in "${missing[@]}"; do
    printf 'DID NOT RUN: the tests on %s\n' "$which"
done
if [[ ${#missing[@]} -gt 0 && -n ${MEED_TEST_ALL:-} ]]; then exit 1; fi
