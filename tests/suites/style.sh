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
exit 0
