#!/usr/bin/env bash
# One owner of the accounts and several fronts before it, which share one public address; until it is told to stop.
#
#   ops/fronts.sh [--fronts N] [--listen HOST:PORT] [--data DIR] [--meed FILE] [-- flags of the owner and the fronts]
#
# Default: 4 fronts with one worker each on 127.0.0.1:8080, data in ./meed-data, the binary target/release/meed. The
# owner listens for fronts on DIR.fronts/owner (a Unix socket) and serves HTTP itself on a free loopback port, for
# operators. Prints `listening on http://HOST:PORT` once all fronts are ready, `metrics on` for the owner and each
# front. SIGTERM or SIGINT stops fronts first, then the owner.
set -euo pipefail

fronts=4 listen=127.0.0.1:8080 data=meed-data meed=target/release/meed
while (($# > 0)); do
    case $1 in
        --fronts) fronts=$2 ;;
        --listen) listen=$2 ;;
        --data) data=$2 ;;
        --meed) meed=$2 ;;
        --) shift; break ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
# The limit of files is each process's own: that is why there are several.
ulimit -n "$(ulimit -H -n)"

folder=$data.fronts
mkdir -p "$folder"
processes=()
status=0

stop() {
    trap '' TERM INT
    for ((i = ${#processes[@]} - 1; i >= 0; i--)); do
        kill -TERM "${processes[i]}" 2>/dev/null || true
        # The owner is the first and is stopped when no front is left.
        wait "${processes[i]}" 2>/dev/null || status=$?
    done
    exit "$status"
}
trap stop TERM INT

# start NAME ARGUMENT…: starts a node and waits until it is ready.
start() {
    local name=$1 process
    shift
    : >"$folder/$name.out"
    "$meed" serve "$@" >"$folder/$name.out" 2>>"$folder/$name.log" &
    process=$!
    processes+=("$process")
    until grep -q '^listening on ' "$folder/$name.out"; do
        if ! kill -0 "$process" 2>/dev/null; then
            echo "fronts: $name ended while it started: $(tail -n 3 "$folder/$name.log")" >&2
            status=1
            stop
        fi
        sleep 0.02
    done
    grep '^metrics on ' "$folder/$name.out" || true
}

start owner --data "$data" --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 --owner-listen "unix:$folder/owner" "$@"
for ((number = 1; number <= fronts; number++)); do
    start "front-$number" --front-of "unix:$folder/owner" --listen "$listen" --share-port --workers 1 \
        --metrics-listen 127.0.0.1:0 "$@"
    # Port 0: the first front finds one, the others share it.
    if ((number == 1)); then listen=$(sed -n 's|^listening on http://||p' "$folder/front-1.out"); fi
done
echo "listening on http://$listen"
# Until one of them ends, which none does by itself.
wait -n "${processes[@]}" || status=$?
echo "fronts: a process ended by itself; see $folder" >&2
if ((status == 0)); then status=1; fi
stop
