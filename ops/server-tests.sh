#!/usr/bin/env bash
# The tests that need real servers. They start their own, on ports and in folders of their own, and stop them.
# Where a server cannot be had, or nothing can be mounted for a disk to be full, this says which tests did not run, and
# ends with 0; with --all it then ends with 1.
#
#   ops/server-tests.sh [--all]
set -euo pipefail
cd "$(dirname "$0")/.."
all=${1:-}
missing=()
if [ "$all" = --all ]; then export MEED_TEST_ALL=1; fi

if ops/kafka.sh available; then
    cargo test --workspace --no-run
    cargo test --workspace --features meed-benches/server-tests --test kafka -- --test-threads 1 --nocapture
else
    missing+=("Kafka (benches/tests/kafka.rs: broker killed, paused, topic missing, node killed)")
fi

status=0
ops/cql-tests.sh || status=$?
case $status in
0) ;;
69) missing+=("Cassandra (ops/cql-tests.sh: nodes and servers killed and paused, the contract on CQL)") ;;
*) exit "$status" ;;
esac

for which in "${missing[@]}"; do
    printf 'DID NOT RUN: the tests on %s\n' "$which"
done
if [ ${#missing[@]} -gt 0 ] && [ "$all" = --all ]; then exit 1; fi
