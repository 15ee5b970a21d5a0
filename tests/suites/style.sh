#!/bin/bash
# Format of every file, lint of what changed since the last landing (or of the last commit), the layers' rules, names that the house
# style bans, and the tests of scripts (*_test.py), which need neither root nor network.
set -uo pipefail

result() { # name, text of what is wrong (empty: fine)
  if [ -z "$2" ]; then echo "PASS style/$1" >>"$WYVERN_RESULTS"; else
    echo "FAIL style/$1: $(echo "$2" | head -3 | tr '\n' ' ')" >>"$WYVERN_RESULTS"; echo "$2"; fi
}

# What a test program says of what failed, and all that it said; nothing where it passes.
failures() {
  local output
  output=$("$@" 2>&1) && return
  grep -aE '^(FAIL|ERROR|[A-Za-z.]+Error)' <<<"$output" || echo "$* failed"
  echo "$output"
}

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.c')
result format "$(printf '%s\0' "${sources[@]}" | xargs -0 -n 40 clang-format-16 --dry-run -Werror 2>&1 | grep -a error: | head -20)"
result architecture-macros "$(git grep -nE '__(x86_64|aarch64|riscv|amd64|arm64)[a-z_]*_*' -- '*.h' '*.cc' '*.c' ':!*/arch/*' | head)"
result dependencies "$(python3 tools/check_deps.py 2>&1)"
result shell "$(git ls-files '*.sh' | xargs -n1 bash -n 2>&1)"
# The rules of the build, tools, the bench's table and the quickstart, each on a small tree of its own (seconds).
for test in $(git ls-files '*_test.py'); do result "$(basename "$test" .py)" "$(failures python3 "$test")"; done
# Every clause of VIRTIO and every known fault of others has its test, or the reason why not.
result tables "$(failures python3 tests/spec/check_tables.py)"
# Every acceptance scenario of containerd's shims has its tests, or says what is missing.
result scenarios "$(failures python3 tests/conformance/check_scenarios.py)"
# A test that no machine of the lab runs shows nothing.
result lab-plan "$(for test in tests/e2e/test_*.py; do grep -q " ${test##*/}" tests/suites/lab.sh || echo "$test is in no line of lab.sh's plan"; done)"
result python "$(git ls-files '*.py' | xargs -r python3 -m py_compile 2>&1)"

# Names that say nothing, as a whole name of a file, directory, type, namespace or component; master and slave anywhere, but for what
# others named: mount propagation, PCI's bus master, rtnetlink's IFLA_MASTER and ip(8)'s word for it, Kubernetes' group of administrators.
nothing='(manager|helper|util|common)'
result words "$({
  git ls-files '*.h' '*.cc' '*.c' '*.py' '*.sh' '*.proto' '*.rs' | grep -iE "(^|/)${nothing}[./]"
  git grep -niE "\b(class|struct|enum|union|namespace|concept|def|add_component\() *([a-z_]+::)*${nothing}\b"
  git grep -niE 'master|slave' -- ':!tests/suites/style.sh' | grep -viE 'bus ?master|IFLA_MASTER|master:[0-9]|link set [a-z0-9]+ master|system:masters|MS_SLAVE|"slave"|rslave|slave propagation'
} | head)"

# One file's findings; a clang-tidy that cannot do its work is a finding, too.
lint() {
  local findings errors code
  errors=$(mktemp)
  findings=$(clang-tidy-16 -quiet -p build/dev "$1" 2>"$errors")
  code=$?
  findings=$(grep -aE '(error|warning):' <<<"$findings" | sort -u)
  [ -z "$findings" ] || echo "$findings"
  [ $code = 0 ] || [ -n "$findings" ] || echo "$1: clang-tidy-16 ended with code $code: $(tail -3 "$errors" | tr '\n' ' ')"
  rm -f "$errors"
}
export -f lint

# Lint of what changed since WYVERN_BASE (default: the last commit), at most a few files: clang-tidy takes 5-10 s each. --long: all files.
database=build/dev/compile_commands.json
base=${WYVERN_BASE:-HEAD~1}
if ! setup=$({ [ -f $database ] || cmake --preset dev; } 2>&1); then
  result lint "cmake --preset dev failed: $(tail -3 <<<"$setup")"
elif ! setup=$(ninja -C build/dev $(ninja -C build/dev -t targets all | sed -n 's/^\(.*\.pb\.h\): .*/\1/p') 2>&1); then
  result lint "the headers made of .proto files cannot be made: $(tail -3 <<<"$setup")"
else
  if [ "${WYVERN_LONG:-0}" = 1 ]; then mapfile -t changed < <(git ls-files '*.cc')
  else mapfile -t changed < <(git diff --name-only --diff-filter=d "$base" -- '*.cc' 2>/dev/null); fi
  known=()
  for file in "${changed[@]}"; do
    # Fuzz targets need clang, and are in the database only where the preset builds them.
    if [[ $file == *_fuzz.cc ]] && ! grep -qF "\"$PWD/$file\"" $database; then
      echo "SKIP style/lint.$file: preset dev does not build it" >>"$WYVERN_RESULTS"
    else known+=("$file"); fi
  done
  if [ "${WYVERN_LONG:-0}" != 1 ] && [ ${#known[@]} -gt 12 ]; then
    echo "SKIP style/lint.more: $((${#known[@]} - 12)) more changed files are left to --long" >>"$WYVERN_RESULTS"
    known=("${known[@]:0:12}")
  fi
  if [ ${#known[@]} -gt 0 ]; then
    result lint "$(printf '%s\0' "${known[@]}" | xargs -0 -n1 -P2 bash -c 'lint "$1"' lint | sort -u | head -40)"
  else echo "SKIP style/lint: no source changed since $base" >>"$WYVERN_RESULTS"; fi
fi
exit 0
