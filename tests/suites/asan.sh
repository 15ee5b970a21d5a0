#!/bin/bash
# Unit tests under AddressSanitizer and UndefinedBehaviorSanitizer; with --long those of base and virtio under ThreadSanitizer, too.
set -uo pipefail
. tests/suites/ctest.sh
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
run_preset asan unit
code=$?
programs=(base_test virtio_test)
if [ "${WYVERN_LONG:-0}" = 1 ]; then
  run_programs tsan "${programs[@]}" || code=1
else echo "LEFT tsan: ${#programs[@]}" >>"$WYVERN_RESULTS"; fi
exit $code
