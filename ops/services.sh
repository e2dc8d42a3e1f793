#!/usr/bin/env bash
# Cassandra and Kafka, one node of each, with meed's topics, for a try-out or for development:
#
#   ops/services.sh start    returns when both answer and the topics are there; does nothing to what runs already
#   ops/services.sh stop     stops both, and waits until they are gone; the data stays
#   ops/services.sh erase    stops both, and removes their data
#
# CQL on 127.0.0.1:19042, Kafka on 127.0.0.1:19092; data in target/cassandra and target/kafka. Needs a JDK 17, Maven, and
# a network for the first time; exit code 69 says that one of them is missing. A start that fails stops what it started.
set -euo pipefail
cd "$(dirname "$0")/.."
kafka_folder=${CARGO_TARGET_DIR:-target}/kafka
EXIT_UNAVAILABLE=69
started=()

stop_started() {
    local status=$?
    if ((status != 0)); then
        for one in "${started[@]}"; do "stop_$one"; done
    fi
    exit "$status"
}
stop_cassandra() { ops/cassandra.sh stop; }
stop_kafka() { ops/kafka.sh stop "$kafka_folder"; }

start() {
    trap stop_started EXIT
    ops/kafka.sh available || exit "$EXIT_UNAVAILABLE"
    # Noted before it is tried: a start that is not ready in time leaves a process.
    ops/cassandra.sh status >/dev/null || started+=(cassandra)
    ops/cassandra.sh start
    ops/kafka.sh status "$kafka_folder" || started+=(kafka)
    ops/kafka.sh start "$kafka_folder"
    ops/kafka.sh topics "$kafka_folder"
}

case ${1:-} in
start) start ;;
stop) stop_kafka; stop_cassandra ;;
erase)
    stop_kafka
    rm -rf "$kafka_folder"
    ops/cassandra.sh erase
    ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
