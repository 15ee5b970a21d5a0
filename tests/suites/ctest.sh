# Sourced by the suites that build with a preset and run its gtest programs: run_preset PRESET LABEL…
# Every gtest case becomes one result line; a program that dies without a report is one failure.

run_preset() {
  local preset=$1 reports=$WYVERN_LOGS/$1-gtest
  shift
  rm -rf "$reports"; mkdir -p "$reports"
  cmake --preset "$preset" || return 1
  ninja -C "build/$preset" "${@/%/_tests}" || return 1
  GTEST_OUTPUT="xml:$reports/" ctest --test-dir "build/$preset" --output-on-failure -j2 -L "$(IFS='|'; echo "$*")" \
    --output-junit "$WYVERN_LOGS/$preset-ctest.xml"
  python3 tests/tools/gtest_results.py "$preset" "$reports" "$WYVERN_LOGS/$preset-ctest.xml" >>"$WYVERN_RESULTS"
}
