#!/bin/bash
# The lab: builds the release, the guest and the lab's images, then runs tests/e2e in a lab machine.
set -uo pipefail
./deploy/packages.sh lab guest || exit 1
cmake --preset release || exit 1
ninja -C build/release || exit 1
deploy/guest/build-kernel.sh || exit 1
deploy/guest/build-image.sh --agent build/release/bin/wyvern-agent || exit 1
tests/lab/lab images || exit 1
out=$WYVERN_LOGS/lab
mkdir -p "$out"
tests/lab/lab run --build build/release --share-out "$out" --timeout 900 --memory 3072 -- \
  python3 -m pytest -q -p no:cacheprovider --junitxml=/out/e2e.xml /opt/wyvern/tests/e2e
python3 tests/tools/junit_results.py lab "$out/e2e.xml" >>"$WYVERN_RESULTS"
