#!/usr/bin/env bash
# What publishing costs the node, the broker's processor time left out: earns over HTTP without and with Kafka, in
# pairs. The time of the node includes what it takes to publish everything that the run made. Beside it stands what its
# publishing threads took for themselves; where the broker shares the cores, the rest costs more as well.
#
#   cargo build --release --workspace && benches/kafka_cost.sh [SECONDS] [PAIRS] [CONNECTIONS]
#   benches/kafka_cost.sh gone [SECONDS] [SECONDS_BEFORE]
#                                             the rate with a broker, and without it after it was killed; then what the
#                                             sample consumer says once it is back
#
# Needs wrk, and what ops/kafka.sh needs. MEED: the binary, else that of the release.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/node.sh
mode=cost
if [ "${1:-}" = gone ]; then mode=gone; shift; fi
seconds=${1:-10} pairs=${2:-3} connections=${3:-256}
before=${2:-$seconds}
DRAIN_SECONDS_MAX=600
work=$(mktemp -d "$PWD/target/kafka-cost.XXXXXX")
node=
finish() {
    if [ -n "$node" ]; then kill "$node" 2>/dev/null || true; fi
    ops/kafka.sh stop "$work/kafka" KILL 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

publishing_ms() { # of the threads that publish, one of them Kafka's client's
    cat "/proc/$node"/task/*/stat | awk '/\((publisher|rdk:)/ { sub(/.*\) /, ""); sum += ($12 + $13) * 10 } END { print sum + 0 }'
}
load() { # SECONDS: prints requests a second
    wrk -t2 -c"$connections" -d"${1}s" -s benches/wrk/earn_rate.lua "$url" | awk '/^Requests\/sec/ { print int($2) }'
}
drain() {
    local deadline=$((SECONDS + DRAIN_SECONDS_MAX))
    until [ "$(measure meed_publish_lag_records)" = 0 ]; do
        kill -0 "$node" 2>/dev/null || fail node "the node ended before it had published everything"
        ((SECONDS < deadline)) || fail node "the node had not published everything within $DRAIN_SECONDS_MAX s"
        sleep 0.2
    done
}
flush_balances() { # waits until those of the run are published too, which happens every 30 s
    local before
    before=$(measure meed_published_balances_total)
    for _ in $(seq 155); do [ "$(measure meed_published_balances_total)" = "$before" ] || break; sleep 0.2; done
    sleep 1
}

ops/kafka.sh start "$work/kafka" 23092
ops/kafka.sh topics "$work/kafka" 16
if [ $mode = gone ]; then
    start_node node --data "$work/data" --kafka 127.0.0.1:23092
    load 3 >/dev/null
    with=$(load "$before")
    ops/kafka.sh stop "$work/kafka" KILL
    without=$(load "$seconds")
    echo "with a broker $with a second, while it is gone for $seconds s $without a second"
    lag=$(measure meed_publish_lag_records) began=$(date +%s%N)
    ops/kafka.sh start "$work/kafka" 23092
    drain
    echo "$lag records published $((($(date +%s%N) - began) / 1000000)) ms after it was started again"
    curl -s "$url/api/v1/events" >"$work/events"
    stop_node
    target/release/consume --nodes stopped --brokers 127.0.0.1:23092 --journal "$work/events"
    exit
fi
for pair in $(seq "$pairs"); do
    for kafka in off on; do
        arguments=()
        if [ $kafka = on ]; then arguments=(--kafka 127.0.0.1:23092); fi
        start_node node --data "$work/data-$pair-$kafka" "${arguments[@]}"
        load 1 >/dev/null
        before=$(used_ms "$node") publishing=$(publishing_ms) operations=$(measure meed_journal_batch_records_sum)
        rate=$(load "$seconds")
        lag=$(measure meed_publish_lag_records)
        if [ $kafka = on ]; then drain; flush_balances; fi
        used=$(($(used_ms "$node") - before)) publishing=$(($(publishing_ms) - publishing)) operations=$(($(measure meed_journal_batch_records_sum) - operations))
        echo "$pair kafka $kafka: $rate a second, $((used * 1000000 / operations)) ns of the node's processors an operation," \
            "$((publishing * 1000000 / operations)) ns of them in the publishing threads, $lag records behind at the end"
        stop_node
    done
done
