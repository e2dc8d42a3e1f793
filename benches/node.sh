# Starts nodes for the scripts of this folder and reads their measures. It is sourced; $work is their folder.
# MEED: the binary, else that of the release.

START_SECONDS_MAX=60

# Starts a node, whose output goes to files of this name, and waits until it serves. Sets $node, $url and $metrics.
start_node() { # NAME [FLAGS]
    local name=$1 deadline=$((SECONDS + START_SECONDS_MAX))
    shift
    # Emptied before, so that no line of a node before is taken for this one's.
    : >"$work/$name.out"
    "${MEED:-target/release/meed}" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 "$@" \
        >"$work/$name.out" 2>>"$work/$name.log" &
    node=$!
    until grep -q '^metrics on' "$work/$name.out"; do
        kill -0 "$node" 2>/dev/null || fail "$name" "the node ended while it started"
        ((SECONDS < deadline)) || fail "$name" "the node was not ready within $START_SECONDS_MAX s"
        sleep 0.05
    done
    url=$(sed -n 's/^listening on //p' "$work/$name.out")
    metrics=$(sed -n 's/^metrics on //p' "$work/$name.out")/metrics
}
stop_node() { kill "$node"; wait "$node" || true; node=; }
fail() { # NAME, MESSAGE
    echo "${0##*/}: $2; $1 said:" >&2
    tail -n 20 "$work/$1.log" >&2
    exit 1
}

# A measure of the node that was started last, without its fraction.
measure() { curl -s "$metrics" | sed -n "s/^$1 //p" | cut -d. -f1; }
# Processor time that a process has used.
used_ms() { awk '{ sub(/.*\) /, ""); print ($12 + $13) * 10 }' "/proc/$1/stat"; }
