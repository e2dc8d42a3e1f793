#!/usr/bin/env bash
# Fuzzes what reads bytes from outside, each target for a while, beginning with the committed corpus.
#
#   ops/fuzz.sh [SECONDS_EACH [TARGET…]]       15 seconds each by default, all targets
#   ops/fuzz.sh --minimize [TARGET…]           puts the smallest inputs with the same coverage into the corpus
#
# Needs Rust (stable) and a C++ compiler, for LLVM's fuzzer. What it finds beyond the corpus stays in
# target/fuzz/found/TARGET, so that a later run goes on from there. Ends with 1 when a target failed, and says how to
# repeat that.
set -euo pipefail
cd "$(dirname "$0")/.."

all=(http forward record state journal)
minimize=false
seconds=15
if [[ ${1:-} == --minimize ]]; then
    minimize=true
    shift
elif [[ ${1:-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
targets=("${@:-${all[@]}}")

# Coverage as LLVM's own driver would ask for it; everything here is in stable rustc. Only the packages of this workspace
# are instrumented, and with them optimized a little the rest is what `cargo test` has built.
wrapper=$PWD/target/fuzz/rustc
mkdir -p "${wrapper%/*}"
cat >"$wrapper" <<'EOF'
#!/bin/sh
# cargo gives the compiler and its arguments.
exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-trace-compares \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table
EOF
chmod +x "$wrapper"
RUSTC_WORKSPACE_WRAPPER=$wrapper cargo build --quiet --workspace --features meed-fuzz/fuzzer "${targets[@]/#/--bin=fuzz_}" \
    --config profile.dev.package.meed-engine.opt-level=1 --config profile.dev.package.meed-schemas.opt-level=1
programs=${CARGO_TARGET_DIR:-target}/debug
# The committed file to the fuzzer's folder and back; not instrumented.
cargo build --quiet --workspace --bin corpus
corpus() {
    "$programs/corpus" "$@"
}

# Folders of journals are made and removed all the time; memory spares the disk.
scratch=$(mktemp -d "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")/meed-fuzz-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch

failed=0
for target in "${targets[@]}"; do
    inputs=$scratch/inputs-$target
    found=target/fuzz/found/$target
    mkdir -p "$found" target/fuzz/failures
    program=$programs/fuzz_$target
    corpus unpack "$target" "$inputs"
    if $minimize; then
        mkdir "$scratch/smallest-$target"
        "$program" -merge=1 -use_counters=0 "$scratch/smallest-$target" "$inputs" "$found" >"$scratch/log" 2>&1
        # What once failed stays, whatever else covers the same code now.
        find target/fuzz/failures -type f -name "$target-*" -exec cp {} "$scratch/smallest-$target" \;
        corpus pack "$target" "$scratch/smallest-$target"
        continue
    fi
    log=target/fuzz/$target.log
    if "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="target/fuzz/failures/$target-" "$found" "$inputs" >"$log" 2>&1; then
        printf '%s: passed, %s runs, %s\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
            "$(sed -n 's/.*DONE *\(cov: [0-9]* ft: [0-9]*\).*/\1/p' "$log")"
    else
        failed=1
        tail -n 60 "$log"
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        printf '%s: FAILED. Repeat it with:  %s %s\n' "$target" "$program" "$input"
        printf 'When it is mended, ops/fuzz.sh --minimize %s keeps its input: cargo test replays the corpus.\n' "$target"
    fi
done
exit $failed
