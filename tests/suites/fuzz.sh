#!/bin/bash
# libFuzzer targets: each committed corpus is replayed, then the target runs for $WYVERN_FUZZ_SECONDS.
# They share the build, and most objects, with the suite asan; long runs are worth an optimised build of their own, which also counts what
# each target reaches of its component (tests/tools/fuzz_coverage.py).
# WYVERN_FUZZ_TARGETS, a regular expression of names: only those. WYVERN_FUZZ_AT_ONCE: so many targets at a time (2); each takes up to 2 GiB.
set -uo pipefail
preset=asan
[ "${WYVERN_LONG:-0}" = 1 ] && preset=fuzz
cmake --preset $preset || exit 1
ninja -C build/$preset fuzzers || exit 1
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1

# fuzz_one TARGET CORPUS: one result line; the crashing input stays in the target's directory.
fuzz_one() {
  local fuzzer=$1 corpus=$2 name work
  name=$(basename "$fuzzer")
  work=$WYVERN_LOGS/fuzz/$name
  mkdir -p "$work/new"
  if [ ! -d "$corpus" ] || [ -z "$(ls -A "$corpus")" ]; then
    echo "FAIL fuzz/$name: no committed corpus in ${corpus#"$PWD/"}" >>"$WYVERN_RESULTS"
  elif (cd "$work" && export LLVM_PROFILE_FILE=$work/reached.profraw && "$fuzzer" -runs=0 "$corpus" >replay.log 2>&1 &&
    "$fuzzer" -max_total_time="$WYVERN_FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 new "$corpus" >fuzz.log 2>&1); then
    echo "PASS fuzz/$name" >>"$WYVERN_RESULTS"
    echo "$name: $(grep -ao 'cov: [0-9]* ft: [0-9]*' "$work/fuzz.log" | tail -1), $(grep -a '^Done' "$work/fuzz.log")"
  else
    echo "FAIL fuzz/$name: see build/test-logs/fuzz/$name; crashing input kept there" >>"$WYVERN_RESULTS"
    tail -n 30 "$work/replay.log" "$work/fuzz.log" 2>/dev/null
  fi
}
export -f fuzz_one

targets=$WYVERN_LOGS/fuzzers.txt
grep -E "/(${WYVERN_FUZZ_TARGETS:-.*})_fuzz " build/$preset/fuzzers.txt >"$targets" || exit 1
xargs -P"${WYVERN_FUZZ_AT_ONCE:-2}" -L1 bash -c 'fuzz_one "$1" "$2"' fuzz_one <"$targets"
[ $preset = asan ] || python3 tests/tools/fuzz_coverage.py "$targets" "$WYVERN_LOGS/fuzz"
