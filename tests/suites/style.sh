#!/bin/bash
# Format of every file, lint of what changed since the last landing (or of the last commit), the layers' rules, and words that do not
# belong in the tree.
set -uo pipefail

result() { # name, text of what is wrong (empty: fine)
  if [ -z "$2" ]; then echo "PASS style/$1" >>"$WYVERN_RESULTS"; else
    echo "FAIL style/$1: $(echo "$2" | head -3 | tr '\n' ' ')" >>"$WYVERN_RESULTS"; echo "$2"; fi
}

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.c')
result format "$(printf '%s\0' "${sources[@]}" | xargs -0 -n 40 clang-format-16 --dry-run -Werror 2>&1 | grep -a error: | head -20)"
result architecture-macros "$(git grep -nE '__(x86_64|aarch64|riscv|amd64|arm64)[a-z_]*_*' -- '*.h' '*.cc' '*.c' ':!*/arch/*' | head)"
result dependencies "$(python3 tools/check_deps.py 2>&1)"
result shell "$(git ls-files '*.sh' | xargs -n1 bash -n 2>&1)"
result python "$(git ls-files '*.py' | xargs -r python3 -m py_compile 2>&1)"

# Lint of what changed since WYVERN_BASE (default: the last commit), at most a few files: clang-tidy takes 5-10 s each. --long: all files.
if [ -f build/dev/compile_commands.json ] || cmake --preset dev >/dev/null; then
  if [ "${WYVERN_LONG:-0}" = 1 ]; then mapfile -t changed < <(git ls-files '*.cc')
  else mapfile -t changed < <(git diff --name-only --diff-filter=d "${WYVERN_BASE:-HEAD~1}" -- '*.cc' 2>/dev/null | grep -v '_fuzz\.cc$' | head -12); fi
  if [ ${#changed[@]} -gt 0 ]; then
    ninja -C build/dev $(ninja -C build/dev -t targets all | sed -n 's/^\(.*\.pb\.h\): .*/\1/p') >/dev/null
    result lint "$(printf '%s\0' "${changed[@]}" | xargs -0 -n1 -P2 clang-tidy-16 -quiet -p build/dev 2>/dev/null | grep -aE '(error|warning):' | sort -u | head -40)"
  else echo "SKIP style/lint: no source changed since ${WYVERN_BASE:-HEAD~1}" >>"$WYVERN_RESULTS"; fi
fi
exit 0
