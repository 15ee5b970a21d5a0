#!/bin/bash
# Unit tests under AddressSanitizer and UndefinedBehaviorSanitizer.
set -uo pipefail
. tests/suites/ctest.sh
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
run_preset asan unit
