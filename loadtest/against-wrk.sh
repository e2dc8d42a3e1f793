#!/usr/bin/env bash
# Does the harness count what wrk counts? Both, in turn, in a closed loop against one server that is the bottleneck:
# the server has a core of its own, the generator another. Prints the rates and the ratio of the medians.
# `loadtest/against-wrk.sh [PAIRS] [SECONDS]`, from the root, after `cargo build --release --workspace`; needs wrk.
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:-5} seconds=${2:-5}
bin=${CARGO_TARGET_DIR:-target}/release
folder=$(mktemp -d)
taskset -c 0 "$bin/bare_hyper" --listen 127.0.0.1:0 --workers 1 >"$folder/server" &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT
start_seconds_max=30
until url=$(grep -om1 'http://.*' "$folder/server"); do
    if ! kill -0 $server 2>/dev/null; then
        echo "against-wrk: the server ended before it said where it listens" >&2
        exit 1
    fi
    if ((SECONDS > start_seconds_max)); then
        echo "against-wrk: the server does not say within $start_seconds_max s where it listens" >&2
        exit 1
    fi
    sleep 0.05
done
cat >"$folder/closed.toml" <<T
name = "closed"
mode = "closed"
connections = 64
[mix]
earn_points = 1
[check]
level = "none"
[[stages]]
name = "warm-up"
seconds = 1
warmup = true
[[stages]]
name = "closed"
seconds = $seconds
T
for _ in $(seq "$pairs"); do
    taskset -c 1 wrk -t1 -c64 -d"${seconds}s" -s benches/wrk/requests.lua "$url" -- earn 100000 "r$RANDOM" 1 |
        sed -n 's/^Requests.sec: *\([0-9]*\).*/\1/p' >>"$folder/wrk"
    taskset -c 1 "$bin/meed-loadtest" run "$folder/closed.toml" --target "$url" --quiet --processes 1 --out "$folder/out" >/dev/null
    sed -n 's/.*"completed_per_second": \([0-9]*\).*/\1/p' "$folder/out/summary.json" | head -1 >>"$folder/own"
done
median() { sort -n "$1" | sed -n "$(((pairs + 1) / 2))p"; }
echo "wrk:           $(tr '\n' ' ' <"$folder/wrk")median $(median "$folder/wrk")"
echo "meed-loadtest: $(tr '\n' ' ' <"$folder/own")median $(median "$folder/own")"
echo "ratio: $(awk "BEGIN { printf \"%.3f\", $(median "$folder/own") / $(median "$folder/wrk") }")"
