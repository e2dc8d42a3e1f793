#!/usr/bin/env bash
# A short tour of one node, each step checked: `ops/smoke.sh [path to the meed binary]`.
# It starts a node on free ports in a temporary folder, kills it, starts it again, stops it and verifies its data; then
# an owner with two fronts.
set -euo pipefail

meed=$(realpath "${1:-target/release/meed}")
ops=$(dirname "$(realpath "$0")")
folder=$(mktemp -d)
data=$folder/data
node= fronts=

finish() {
    local status=$?
    if [[ -n $node ]]; then kill -9 "$node" 2>/dev/null || true; fi
    # It stops what it started.
    if [[ -n $fronts ]]; then { kill -TERM "$fronts" && wait "$fronts" || true; } 2>/dev/null; fi
    if ((status != 0)); then
        echo "smoke: FAILED; what the node said:" >&2
        tail -n 50 "$folder"/*.log >&2 || true
    fi
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

fail() {
    echo "smoke: $*" >&2
    exit 1
}

# Starts the node and sets `node`, `base` and `metrics` once it is ready.
start() {
    # Emptied before, so that no line of an earlier start is taken for this one's.
    : >"$folder/out.log"
    "$meed" serve --data "$data" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 \
        >>"$folder/out.log" 2>>"$folder/err.log" &
    node=$!
    wait_until_ready "$node" "$folder/out.log" "the node"
}

# wait_until_ready PROCESS FILE NAME – takes `base` and `metrics` from what the process writes to the file when it is ready.
wait_until_ready() {
    for _ in $(seq 300); do
        base=$(sed -n 's|^listening on \(http://[^ ]*\).*|\1|p' "$2")
        metrics=$(sed -n 's|^metrics on \(http://[^ ]*\).*|\1|p' "$2")
        if [[ -n $base && -n $metrics ]]; then return; fi
        kill -0 "$1" 2>/dev/null || fail "$3 ended while starting"
        sleep 0.1
    done
    fail "$3 was not ready within 30 s"
}

# stop PROCESS NAME – SIGTERM must end it with exit code 0.
stop() {
    local status=0
    kill -TERM "$1"
    wait "$1" || status=$?
    ((status == 0)) || fail "SIGTERM to $2 ended in exit code $status"
}

# call EXPECTED_STATUS METHOD PATH [curl arguments…] – the body goes to $folder/body, the head to $folder/head.
call() {
    local expected=$1 method=$2 path=$3 status
    shift 3
    status=$(curl -sS --max-time 20 -X "$method" -o "$folder/body" -D "$folder/head" -w '%{http_code}' \
        -H 'Content-Type: application/json' "$@" "$base$path")
    [[ $status == "$expected" ]] || fail "$method $path answered $status instead of $expected: $(cat "$folder/body")"
}

# has TEXT… – every text stands in the last body.
has() {
    local text
    for text in "$@"; do
        grep -qF -- "$text" "$folder/body" || fail "no $text in: $(cat "$folder/body")"
    done
}

redeem() {
    call 201 POST /api/v1/points/smoke-1/redeem -H 'Idempotency-Key: smoke-redeem' -d '{"points":30,"reward_id":"tea"}'
}

echo "smoke: start"
start
call 200 GET /livez
call 200 GET /readyz

echo "smoke: earn, balance, redeem"
call 201 POST /api/v1/points/smoke-1/earn -H 'Idempotency-Key: smoke-earn' -d '{"points":100,"reference_id":"order-1"}'
has '"type":"EARN"' '"points":100' '"new_balance":100'
call 200 GET /api/v1/points/smoke-1/balance
has '"total_points":100' '"available_points":100'
redeem
has '"type":"REDEEM"' '"points":-30' '"new_balance":70' '"redemption_code"'
cp "$folder/body" "$folder/redeemed"

echo "smoke: the same request again, and another one under its key"
redeem
cmp "$folder/body" "$folder/redeemed" || fail "the answer to a retry differs"
grep -qi '^idempotent-replayed: true' "$folder/head" || fail "a retry is not marked as replayed"
call 422 POST /api/v1/points/smoke-1/redeem -H 'Idempotency-Key: smoke-redeem' -d '{"points":31,"reward_id":"tea"}'
has '/problems/idempotency-key-reused'
call 400 POST /api/v1/points/smoke-1/redeem -H 'Idempotency-Key: smoke-too-much' -d '{"points":1000}'
has '/problems/insufficient-points' '"available_points":70'

echo "smoke: batch"
call 207 POST /api/v1/batch -d '{"items":[
    {"op":"earn","account":"smoke-1","points":5,"idempotency_key":"smoke-batch-1"},
    {"op":"earn","account":"smoke-2","points":7,"idempotency_key":"smoke-batch-2"},
    {"op":"redeem","account":"smoke-2","points":8,"idempotency_key":"smoke-batch-3"}]}'
has '"new_balance":75' '"new_balance":7' '"status":400'

echo "smoke: kill -9 and start again"
# The shell would report the killed job.
{ kill -9 "$node" && wait "$node" || true; } 2>/dev/null
start
call 200 GET /api/v1/points/smoke-1/balance
has '"total_points":75'
redeem
cmp "$folder/body" "$folder/redeemed" || fail "the answer to a retry differs after a crash"
call 200 GET '/api/v1/points/smoke-1/transactions?limit=10'
has '"EARN"' '"REDEEM"' '"has_more":false'
curl -sS --max-time 20 -o "$folder/body" "$metrics/metrics"
has meed_http_requests_total

echo "smoke: stop"
stop "$node" "the node"
node=

echo "smoke: verify and inspect"
"$meed" verify "$data"
"$meed" inspect "$data" --account default/smoke-1 >"$folder/body"
has REDEEM

echo "smoke: an owner and two fronts on one port"
: >"$folder/fronts.out"
"$ops/fronts.sh" --fronts 2 --listen 127.0.0.1:0 --data "$folder/owned" --meed "$meed" \
    >"$folder/fronts.out" 2>"$folder/fronts.log" &
fronts=$!
wait_until_ready "$fronts" "$folder/fronts.out" "the script of the fronts"
(($(grep -c '^metrics on ' "$folder/fronts.out") == 3)) || fail "not three processes: $(cat "$folder/fronts.out")"
call 201 POST /api/v1/points/smoke-3/earn -H 'Idempotency-Key: smoke-front' -d '{"points":11}'
has '"new_balance":11'
stop "$fronts" "the fronts"
fronts=
"$meed" verify "$folder/owned" >"$folder/body"
has '1 accounts, 11 issued'
echo "smoke: all good"
