# Sourced by the suites that build with a preset and run its gtest programs: run_preset PRESET LABEL…, run_programs PRESET PROGRAM…
# Every gtest case becomes one result line; a program that dies without a report is one failure.

run_preset() {
  local preset=$1
  shift
  run_tests "$preset" "${*/%/_tests}" -L "$(IFS='|'; echo "$*")"
}

run_programs() {
  local preset=$1
  shift
  run_tests "$preset" "$*" -R "^($(IFS='|'; echo "$*"))\$"
}

# PRESET, what to build (words), ctest's choice of tests
run_tests() {
  local preset=$1 targets=$2 reports=$WYVERN_LOGS/$1-gtest
  shift 2
  rm -rf "$reports"; mkdir -p "$reports"
  cmake --preset "$preset" || return 1
  # shellcheck disable=SC2086 # words
  ninja -C "build/$preset" $targets || return 1
  GTEST_OUTPUT="xml:$reports/" ctest --test-dir "build/$preset" --output-on-failure -j3 "$@" --output-junit "$WYVERN_LOGS/$preset-ctest.xml"
  python3 tests/tools/gtest_results.py "$preset" "$reports" "$WYVERN_LOGS/$preset-ctest.xml" >>"$WYVERN_RESULTS"
}
