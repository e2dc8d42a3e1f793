#!/usr/bin/env bash
# A real Apache Cassandra of one node for development and tests, from Maven Central, run by this machine's JDK:
#
#   ops/cassandra.sh start     returns when CQL answers; does nothing when it runs already
#   ops/cassandra.sh stop      stops what `start` started, and waits until it is gone; the data stays
#   ops/cassandra.sh kill      the same with SIGKILL, as a crash
#   ops/cassandra.sh pause     SIGSTOP, and `resume` SIGCONT
#   ops/cassandra.sh status    exit code 0 when it runs
#   ops/cassandra.sh erase     stops it and removes its data
#
# Needs a JDK 11 or 17, Maven, and a network for the first time; exit code 69 says that one of them is missing. Settings,
# from the environment:
#   MEED_CASSANDRA_DIR      jars, data, logs (default: target/cassandra)
#   MEED_CASSANDRA_ADDRESS  127.0.0.1
#   MEED_CASSANDRA_PORT     19042
#   MEED_CASSANDRA_HEAP     768m
#   MEED_CASSANDRA_SEED     the address of the first node, for one that joins it; both have the same port
#   MEED_CASSANDRA_TOKEN    its place in the ring of several nodes
#   MEED_CASSANDRA_LIB      the jars, where several nodes share them (default: lib in the folder)
#   MEED_CASSANDRA_LOGIN    1: clients must log in (cassandra/cassandra); 0 (default): anybody
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${MEED_CASSANDRA_DIR:-${CARGO_TARGET_DIR:-$here/../target}/cassandra}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
address=${MEED_CASSANDRA_ADDRESS:-127.0.0.1}
port=${MEED_CASSANDRA_PORT:-19042}
storage_port=$((port + 1))
heap=${MEED_CASSANDRA_HEAP:-768m}
lib=${MEED_CASSANDRA_LIB:-$folder/lib}
seed=${MEED_CASSANDRA_SEED:-$address}
token=${MEED_CASSANDRA_TOKEN:+initial_token: $MEED_CASSANDRA_TOKEN}
# A node that joins ends when its seed has not answered within twice this.
ring_delay_ms=100
[[ $seed == "$address" ]] || ring_delay_ms=20000
START_SECONDS=300
EXIT_UNAVAILABLE=69

say() { echo "cassandra: $*"; }
fail() { say "$*" >&2; exit 1; }

pid() { cat "$folder/pid" 2>/dev/null || echo 0; }

# Whether the recorded process is ours: its command line names this folder (it is empty for a zombie, and
# different for another process with the same number).
alive() { grep -qF -- "$folder/cassandra.yaml" "/proc/$(pid)/cmdline" 2>/dev/null; }

# Whether the process is gone, or a zombie of which no thread lives: one that lives holds the ports.
gone() {
    case $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) in
    '') return 0 ;;
    Z) [[ $(ls "/proc/$1/task" 2>/dev/null | wc -l) -le 1 ]] ;;
    *) return 1 ;;
    esac
}

# Whether an OPTIONS frame (protocol v4) is answered with SUPPORTED (opcode 6).
answers() {
    local head
    exec 3<>"/dev/tcp/$address/$port" || return 1
    printf '\x04\x00\x00\x00\x05\x00\x00\x00\x00' >&3
    head=$(timeout 2 head -c 9 <&3 | od -An -tx1 | tr -d ' \n') || true
    exec 3>&- 3<&-
    [[ ${head:0:2}${head:8:2} == 8406 ]]
}

resolve() {
    for tool in java mvn; do
        command -v "$tool" >/dev/null || { say "no $tool on this machine" >&2; exit "$EXIT_UNAVAILABLE"; }
    done
    (
        flock 9
        if [[ ! -f $lib/.resolved || $here/cassandra/pom.xml -nt $lib/.resolved ]]; then
            rm -rf "$lib"
            mkdir -p "$lib"
            # Maven writes beside the pom; the source tree stays as it is.
            cp "$here/cassandra/pom.xml" "$folder/pom.xml"
            mvn -B -q -f "$folder/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
                -DoutputDirectory="$lib" || { say "its jars cannot be fetched" >&2; exit "$EXIT_UNAVAILABLE"; }
            touch "$lib/.resolved"
        fi
    ) 9>"$folder/.lock"
}

configure() {
    local authenticator=AllowAllAuthenticator authorizer=AllowAllAuthorizer
    if [[ ${MEED_CASSANDRA_LOGIN:-0} == 1 ]]; then
        authenticator=PasswordAuthenticator authorizer=CassandraAuthorizer
    fi
    sed -e "s|@ADDR@|$address|g" -e "s|@PORT@|$port|g" -e "s|@SPORT@|$storage_port|g" -e "s|@DATA@|$folder|g" \
        -e "s|@SEED@|$seed|g" -e "s|@TOKEN@|$token|g" \
        -e "s|@AUTHENTICATOR@|$authenticator|g" -e "s|@AUTHORIZER@|$authorizer|g" \
        "$here/cassandra/cassandra.yaml.in" >"$folder/cassandra.yaml"
}

start() {
    if alive; then say "runs already on $address:$port, process $(pid)"; return; fi
    rm -f "$folder/pid"
    resolve
    # One that was just killed may still hold the port.
    for _ in $(seq 50); do
        (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null || break
        sleep 0.1
    done
    if (exec 3<>"/dev/tcp/$address/$port") 2>/dev/null; then fail "$address:$port is taken by another process"; fi
    configure
    local options process
    mapfile -t options < <(grep -vE '^(#|$)' "$here/cassandra/jvm.options")
    setsid nohup java "${options[@]}" -Xms128m -Xmx"$heap" \
        -Dcassandra.ring_delay_ms="$ring_delay_ms" -javaagent:"$(echo "$lib"/jamm-*.jar)" \
        -Djava.io.tmpdir="$folder" -Dlogback.configurationFile="$here/cassandra/logback.xml" \
        -Dcassandra.logdir="$folder" -Dcassandra.storagedir="$folder" \
        -Dcassandra.config="file://$folder/cassandra.yaml" -cp "$lib/*" \
        org.apache.cassandra.service.CassandraDaemon >"$folder/console.log" 2>&1 </dev/null &
    process=$!
    echo "$process" >"$folder/pid"
    local deadline=$((SECONDS + START_SECONDS))
    until answers 2>/dev/null; do
        if ! kill -0 "$process" 2>/dev/null; then
            tail -n 20 "$folder/console.log" "$folder/system.log" >&2 || true
            rm -f "$folder/pid"
            fail "it ended while it was starting"
        fi
        ((SECONDS < deadline)) || fail "it did not answer within $START_SECONDS s"
        sleep 0.1
    done
    say "ready on $address:$port, process $process"
}

# end SIGNAL: sends it, and waits until the process is gone.
end() {
    local process
    process=$(pid)
    if ! alive; then rm -f "$folder/pid"; say "does not run"; return; fi
    kill -s "$1" "$process"
    # A paused process takes no other signal than SIGKILL.
    kill -s CONT "$process" 2>/dev/null || true
    for _ in $(seq 300); do gone "$process" && break; sleep 0.1; done
    if ! gone "$process"; then
        kill -s KILL "$process"
        until gone "$process"; do sleep 0.1; done
    fi
    rm -f "$folder/pid"
    say "process $process has ended"
}

case ${1:-} in
start) start ;;
stop) end TERM ;;
kill) end KILL ;;
pause) alive || fail "does not run"; kill -s STOP "$(pid)" ;;
resume) alive || fail "does not run"; kill -s CONT "$(pid)" ;;
status)
    if alive; then say "runs on $address:$port, process $(pid)"; else say "does not run"; exit 1; fi
    ;;
erase)
    end KILL
    rm -rf "$folder"/{data,commitlog,hints,saved_caches,cdc_raw,system.log,console.log,cassandra.yaml}
    ;;
*) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 2 ;;
esac
