#!/usr/bin/env bash
# The load-test harness on nodes that it starts itself: `ops/load-smoke.sh [folder of the programs meed and meed-loadtest]`.
# One node, a node behind two fronts, the replay of a file of purchases, and a run of half an hour that Ctrl-C ends. Points
# must add up, and every run must take its folder and all its processes with it.
set -euo pipefail

programs=$(realpath "${1:-target/release}")
folder=$(mktemp -d)
fail() {
    echo "load-smoke: $*" >&2
    exit 1
}

# The processes that inherited the mark of these runs.
left_running() {
    # A process may end while it is looked at.
    grep -laF "LOAD_SMOKE_FOLDER=$folder" /proc/[0-9]*/environ 2>/dev/null || true
}

finish() {
    local status=$? environment process
    for environment in $(left_running); do
        process=${environment#/proc/}
        kill -9 "${process%/environ}" 2>/dev/null || true
    done
    rm -rf "$folder"
    exit "$status"
}
trap finish EXIT

# What a run is started by.
by=()

# check NAME ARGUMENT…: a run that must pass and leave nothing behind. Machines that share their processors are late, so
# the generator's own lateness decides nothing here.
check() {
    local name=$1 left
    shift
    mkdir "$folder/$name"
    LOAD_SMOKE_FOLDER=$folder "${by[@]}" "$programs/meed-loadtest" run "$@" --start-node --node "$programs/meed" \
        --data-parent "$folder/$name" --out "$folder/$name.result" --quiet --require 'errors<0.1%,conservation' \
        --set validity.lag_p99_us_max=5000000 >"$folder/$name.out" 2>&1 ||
        fail "$name: exit code $?: $(cat "$folder/$name.out")"
    left=$(ls -A "$folder/$name")
    [[ -z $left ]] || fail "$name left $left in the folder for its data"
    left=$(left_running)
    [[ -z $left ]] || fail "$name left processes running: $left"
    grep -q '"result": "pass"' "$folder/$name.result/summary.json" || fail "$name: its summary does not say pass"
    echo "load-smoke: $name: $(grep -F 'conservation holds' "$folder/$name.out")"
}

short=(--set stages.0.seconds=1 --set stages.1.seconds=2)
check node smoke "${short[@]}"
check fronts smoke "${short[@]}" --fronts 2
# 546 days of purchases.
check replay cdnow --set replay.days_per_second=150
# Long after the load has begun, and long before its end.
# To the run alone: a second signal, through its group, would end it at once.
by=(timeout --foreground --signal=INT --preserve-status 15)
check interrupted smoke --set stages.1.seconds=1800
grep -qF 'ended early, after' "$folder/interrupted.out" || fail "interrupted: it does not say so"
