#!/bin/bash
# Unit tests of every component, debug build; with those that need root and crun.
set -uo pipefail
. tests/suites/ctest.sh
run_preset unit unit root
