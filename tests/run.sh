#!/bin/bash
# tests/run.sh [--suite LIST] [--long] [--fuzz-seconds N] — the one test command. LIST: style,unit,asan,fuzz,proof,lab or all (default);
# e2e is every test of the lab, and like tsan in all with --long; smoke is a small part of it.
# Installs what it needs (Debian 12, root), runs the suites of tests/suites.tsv within their minutes, and ends with a line
# "N passed, N failed, N skipped". Exit code 0 only if nothing failed. Logs: build/test-logs/.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,5s/^# //p' "$0"; }
suites=all
long=0
fuzz_seconds=5
while [ $# -gt 0 ]; do
  case "$1" in
    --suite) suites=${2:?--suite needs a list}; shift 2 ;;
    --long) long=1; shift ;;
    --fuzz-seconds) fuzz_seconds=${2:?--fuzz-seconds needs a number}; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "run.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
all=(style unit asan fuzz proof lab)
[ "$long" = 1 ] && all=(style unit asan tsan fuzz proof e2e)
[ "$suites" = all ] && suites=$(IFS=,; echo "${all[*]}")
for suite in ${suites//,/ }; do
  [ -x "tests/suites/$suite.sh" ] || { echo "run.sh: unknown suite '$suite' (there are: ${all[*]})" >&2; exit 2; }
done

export WYVERN_CACHE=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}
export CCACHE_DIR=${CCACHE_DIR:-$WYVERN_CACHE/ccache}
# Objects are found again from another clone of the same sources.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
export WYVERN_LONG=$long WYVERN_FUZZ_SECONDS=$fuzz_seconds
export WYVERN_LOGS=$PWD/build/test-logs
rm -rf "$WYVERN_LOGS"
mkdir -p "$WYVERN_LOGS" "$CCACHE_DIR"

echo "== suites and their minutes (cold, warm)"
sed -n 's/^\([a-z0-9]*\)\t\([0-9]*\)\t\([0-9]*\)\t\(.*\)/   \1: \2, \3 — \4/p' tests/suites.tsv

start=$SECONDS
if ! ./deploy/packages.sh build test >"$WYVERN_LOGS/packages.log" 2>&1; then
  tail -20 "$WYVERN_LOGS/packages.log"
  echo "1 failed: packages could not be installed"
  echo "0 passed, 1 failed, 0 skipped"
  exit 1
fi
echo "== packages: $((SECONDS - start)) s"

# Warm: the suite has passed here with these sources. Other sources may have everything to compile.
sources=$(git rev-parse HEAD 2>/dev/null; git diff HEAD 2>/dev/null | sha256sum)

minutes_of() { awk -F'\t' -v s="$1" -v c="$2" '$1 == s { print $c }' tests/suites.tsv; }
warm_all=yes

# Each suite writes lines "PASS name", "FAIL name: why", "SKIP name: why" to $WYVERN_RESULTS, and "LEFT name: N" for what it leaves to --long;
# it fails as a whole when it exits non-zero without saying what failed, or when it takes longer than its minutes.
left_to_long() { awk '/^LEFT / { n += $NF } END { if (n) printf ", %d left to --long", n }' "$WYVERN_RESULTS"; }
for suite in ${suites//,/ }; do
  export WYVERN_RESULTS=$WYVERN_LOGS/$suite.results
  : >"$WYVERN_RESULTS"
  stamp=$WYVERN_CACHE/warm/$suite
  column=2; [ "$(cat "$stamp" 2>/dev/null)" = "$sources" ] && column=3
  [ $column = 3 ] || warm_all=
  minutes=$(minutes_of "$suite" $column)
  [ "$long" = 1 ] && minutes=600
  echo "== $suite ($([ $column = 3 ] && echo warm || echo cold), at most $minutes min)"
  began=$SECONDS
  timeout --kill-after=30 "${minutes}m" "tests/suites/$suite.sh" >"$WYVERN_LOGS/$suite.log" 2>&1
  code=$?
  took=$((SECONDS - began))
  if [ $code = 124 ] || [ $code = 137 ]; then
    echo "FAIL $suite: took more than its $minutes minutes" >>"$WYVERN_RESULTS"
  elif [ $code != 0 ] && ! grep -q '^FAIL ' "$WYVERN_RESULTS"; then
    echo "FAIL $suite: exit code $code" >>"$WYVERN_RESULTS"
  elif ! grep -q '^[PFS]' "$WYVERN_RESULTS"; then
    echo "FAIL $suite: ran no test" >>"$WYVERN_RESULTS"
  fi
  if grep -q '^FAIL ' "$WYVERN_RESULTS"; then
    tail -40 "$WYVERN_LOGS/$suite.log" | sed 's/^/   | /'
    grep '^FAIL ' "$WYVERN_RESULTS" | head -40 | sed 's/^/   /'
  else
    mkdir -p "$WYVERN_CACHE/warm"; echo "$sources" >"$stamp"
  fi
  grep '^SKIP ' "$WYVERN_RESULTS" | sed 's/^/   /'
  echo "   $suite: $(grep -c '^PASS ' "$WYVERN_RESULTS") passed, $(grep -c '^FAIL ' "$WYVERN_RESULTS") failed," \
    "$(grep -c '^SKIP ' "$WYVERN_RESULTS") skipped$(left_to_long) in $((took / 60)) min $((took % 60)) s"
done

took=$((SECONDS - start))
if [ "$suites" = "$(IFS=,; echo "${all[*]}")" ] && [ "$long" = 0 ]; then
  minutes=$(minutes_of all $([ "$warm_all" ] && echo 3 || echo 2))
  [ $took -le $((minutes * 60)) ] || echo "FAIL all: took more than its $minutes minutes" | tee "$WYVERN_LOGS/all.results" | sed 's/^/   /'
fi
count() { cat "$WYVERN_LOGS"/*.results | grep -c "^$1 "; }
echo "== total: $((took / 60)) min $((took % 60)) s"
echo "$(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped"
[ "$(count FAIL)" = 0 ]
