# Shared by the scripts in this directory: cache paths, messages.
# shellcheck shell=bash disable=SC2034

guest_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo_dir=$(cd "$guest_dir/../.." && pwd)
cache_dir=${WYVERN_CACHE:-$HOME/.cache/wyvern}/guest

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Prints the first 16 hex digits of the SHA-256 of standard input.
short_hash() { sha256sum | cut -c1-16; }

# Takes a lock for the rest of the script, so that two builds do not write one directory.
take_lock() {
  mkdir -p "$(dirname "$1")"
  exec 9>"$1"
  flock 9
}
