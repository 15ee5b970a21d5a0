#!/bin/bash
# libFuzzer targets: each committed corpus is replayed, then the target runs for $WYVERN_FUZZ_SECONDS.
set -uo pipefail
cmake --preset fuzz || exit 1
ninja -C build/fuzz || exit 1
found=0
while read -r fuzzer corpus; do
  found=1
  name=$(basename "$fuzzer")
  work=$WYVERN_LOGS/fuzz/$name
  mkdir -p "$work/new"
  if [ ! -d "$corpus" ] || [ -z "$(ls -A "$corpus")" ]; then
    echo "FAIL fuzz/$name: no committed corpus in ${corpus#"$PWD/"}" >>"$WYVERN_RESULTS"
    continue
  fi
  if "$fuzzer" -runs=0 "$corpus" >"$work/replay.log" 2>&1 &&
    (cd "$work" && "$fuzzer" -max_total_time="$WYVERN_FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 new "$corpus" >fuzz.log 2>&1); then
    echo "PASS fuzz/$name" >>"$WYVERN_RESULTS"
    echo "$name: $(grep -ao 'cov: [0-9]* ft: [0-9]*' "$work/fuzz.log" | tail -1), $(grep -a 'stat::number_of_executed_units\|^Done' "$work/fuzz.log" | tail -1)"
  else
    echo "FAIL fuzz/$name: see build/test-logs/fuzz/$name; crashing input kept there" >>"$WYVERN_RESULTS"
    tail -30 "$work/replay.log" "$work/fuzz.log" 2>/dev/null
  fi
done <build/fuzz/fuzzers.txt
[ $found = 1 ]
