#!/bin/bash
# tests/deploy/debian_packages.sh [PYTEST-OPTION…] — builds the Debian packages in a copy of the tree, asks lintian (where it is installed) and has
# tests/e2e/test_debian_packages.py install, use and remove them in a lab machine.
# Exit code 3 and a reason: they cannot be built here. RESULT (a file): pytest's report in JUnit's format. PACKAGES (a directory): there they are already.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "${PACKAGES:-}" ]; then
  ./deploy/packages.sh build guest debian >&2 || { echo "debian_packages.sh: the packages' tools cannot be installed here"; exit 3; }
  # What this build has cached serves: the guest's kernel, and the compiler's results.
  export WYVERN_CACHE=${WYVERN_CACHE:-$HOME/.cache/wyvern} CCACHE_BASEDIR=$work/wyvern CCACHE_NOHASHDIR=1
  mkdir "$work/wyvern"
  tar -c --exclude=./build --exclude=./.git . | tar -x -C "$work/wyvern"
  (cd "$work/wyvern" && dpkg-buildpackage --build=binary --unsigned-changes --unsigned-source) >"$work/log" 2>&1 || { tail -40 "$work/log"; exit 1; }
  PACKAGES=$work
fi
if command -v lintian >/dev/null; then
  lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$PACKAGES"/wyvern_*.changes
  echo "lintian: nothing to say"
fi
status=0
add=()
for package in "$PACKAGES"/*.deb; do
  add+=(--add "$package")
done
mkdir "$work/said"
tests/lab/lab run --build build/release --cpus 1 --memory 3072 --timeout 1200 --share-out "$work/said" "${add[@]}" -- \
  sh -c 'cd /opt/wyvern/tests/e2e && exec python3 -m pytest -q -p no:cacheprovider --junitxml=/out/e2e.xml test_debian_packages.py "$@"' sh "$@" || status=$?
[ -z "${RESULT:-}" ] || [ ! -e "$work/said/e2e.xml" ] || cp "$work/said/e2e.xml" "$RESULT"
exit $status
