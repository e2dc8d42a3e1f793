#!/usr/bin/env bash
# A Kafka broker (KRaft, one node) for development and tests, from Maven Central with the machine's JDK.
#
#   ops/kafka.sh start [DIR] [PORT]     starts it on 127.0.0.1:PORT (19092; the controller takes PORT+1), state in DIR
#   ops/kafka.sh topics [DIR] [N]       makes meed's two topics with N partitions (4), if they are not there
#   ops/kafka.sh stop [DIR] [SIGNAL]    stops it (TERM; KILL is a crash) and waits until it is gone; the data stays
#   ops/kafka.sh status [DIR]           exit 0 when it runs
#   ops/kafka.sh available              exit 0 when this machine can run one: Java 17 or newer, Maven, the jars or a network
#
# DIR is ./meed-kafka by default. Every command may be repeated. start returns when the broker answers.
# Environment: KAFKA_HEAP (512m), KAFKA_START_TIMEOUT in seconds (180), KAFKA_PROPS: further server properties, one a line,
# KAFKA_JARS: folder of the jars (ops/kafka/lib), EVENTS_TOPIC and BALANCES_TOPIC for `topics`.
set -euo pipefail
here=$(cd "$(dirname "$0")/kafka" && pwd)
command=${1:-}
data=${2:-meed-kafka}
jars=${KAFKA_JARS:-$here/lib}

say() { printf '%s\n' "$*" >&2; }

jars_are_there() { [ -f "$jars/.resolved" ] && [ ! "$here/pom.xml" -nt "$jars/.resolved" ]; }

fetch_jars() {
    jars_are_there && return
    command -v mvn >/dev/null || { say "there is no Maven (mvn) to fetch Kafka with"; return 1; }
    mkdir -p "$jars"
    (
        flock 9
        jars_are_there && exit 0
        (cd "$here" && mvn -B -q dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars") || exit 1
        touch "$jars/.resolved"
    ) 9>"$jars.lock"
}

available() {
    command -v java >/dev/null || { say "there is no Java to run Kafka with"; return 1; }
    fetch_jars || { say "Kafka's jars cannot be fetched"; return 1; }
}

# Ours and alive: the command line names DIR. Empty for a zombie, different for a number that was given again.
alive() { [ -f "$data/pid" ] && grep -qF -- "$data/server.properties" "/proc/$(cat "$data/pid")/cmdline" 2>/dev/null; }

# The broker answers an ApiVersions request (v0).
ready() {
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf '\x00\x00\x00\x0a\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff' >&3
    answer=$(timeout 2 head -c 4 <&3 | od -An -tx1 | tr -d ' \n') || true
    exec 3>&- 3<&-
    [ ${#answer} -eq 8 ]
}

start() {
    data=$(mkdir -p "$data" && cd "$data" && pwd)
    port=${1:-19092}
    if alive; then say "kafka runs already, process $(cat "$data/pid")"; return; fi
    available
    rm -f "$data/pid"
    taken() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
    for _ in $(seq 50); do taken || break; sleep 0.1; done # one just killed may still hold it
    if taken; then say "port $port is taken"; return 1; fi
    sed -e "s|@PORT@|$port|g" -e "s|@CPORT@|$((port + 1))|g" -e "s|@DATA@|$data|g" \
        "$here/server.properties.in" >"$data/server.properties"
    printf '%s\n' "${KAFKA_PROPS:-}" >>"$data/server.properties"
    echo "$port" >"$data/port"
    if [ ! -f "$data/logs/meta.properties" ]; then
        java -Xmx128m -XX:TieredStopAtLevel=1 -cp "$jars/*" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qg \
            -c "$data/server.properties" >"$data/format.log" 2>&1 || { cat "$data/format.log" >&2; return 1; }
    fi
    setsid nohup java -Xmx"${KAFKA_HEAP:-512m}" -Xms64m -XX:+UseSerialGC -Djava.awt.headless=true \
        -Dorg.slf4j.simpleLogger.logFile="$data/kafka.log" -Dorg.slf4j.simpleLogger.defaultLogLevel=info \
        -Dorg.slf4j.simpleLogger.showDateTime=true -cp "$jars/*" kafka.Kafka "$data/server.properties" \
        >"$data/console.log" 2>&1 </dev/null 7>&- 8>&- 9>&- &
    echo $! >"$data/pid"
    local deadline=$((SECONDS + ${KAFKA_START_TIMEOUT:-180}))
    until ready 2>/dev/null; do
        if ! kill -0 "$(cat "$data/pid")" 2>/dev/null; then
            say "kafka ended:"
            tail -n 30 "$data/console.log" "$data/kafka.log" >&2
            rm -f "$data/pid"
            return 1
        fi
        [ $SECONDS -lt $deadline ] || { say "kafka was not ready in time"; return 1; }
        sleep 0.1
    done
    say "kafka ready on 127.0.0.1:$port, process $(cat "$data/pid")"
}

stop() {
    [ -d "$data" ] || { say "not running"; return; }
    data=$(cd "$data" && pwd)
    alive || { rm -f "$data/pid"; say "not running"; return; }
    local pid
    pid=$(cat "$data/pid")
    # Gone: no process, or a zombie none of whose threads lives (a live one still holds the ports).
    gone() {
        case $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null) in
        '') return 0 ;;
        Z) [ "$(ls "/proc/$pid/task" 2>/dev/null | wc -l)" -le 1 ] ;;
        *) return 1 ;;
        esac
    }
    kill -s "${1:-TERM}" "$pid"
    for _ in $(seq 300); do gone && break; sleep 0.1; done
    gone || { kill -s KILL "$pid"; until gone; do sleep 0.1; done; }
    rm -f "$data/pid"
    say "stopped $pid"
}

topics() {
    port=$(cat "$data/port")
    java -Xmx128m -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$jars/*" \
        "$here/Topics.java" "127.0.0.1:$port" "${1:-4}" "${EVENTS_TOPIC:-loyalty.account.events.v1}" \
        "${BALANCES_TOPIC:-loyalty.account.balances.v1}"
}

case $command in
start) start "${3:-}" ;;
topics) topics "${3:-}" ;;
stop) stop "${3:-}" ;;
status) data=$(cd "$data" 2>/dev/null && pwd) && alive ;;
available) available ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
