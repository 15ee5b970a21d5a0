#!/bin/bash
# Unit tests of every component, debug build.
set -uo pipefail
. tests/suites/ctest.sh
run_preset dev
