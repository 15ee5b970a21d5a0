# Shared by the scripts in this directory: cache paths, messages, package installation.
# shellcheck shell=bash disable=SC2034

guest_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo_dir=$(cd "$guest_dir/../.." && pwd)
cache_dir=${WYVERN_CACHE:-$HOME/.cache/wyvern}/guest

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Installs the Debian packages named, or says which are missing when not root.
need_packages() {
  local missing=() name
  for name in "$@"; do
    # shellcheck disable=SC2016  # dpkg-query expands it
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null) == ii* ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  ((EUID == 0)) || die "missing packages; run as root: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  if ! apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2; then
    apt-get update -qq >&2
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
      die "apt-get could not install ${missing[*]}: check the apt sources and the network"
  fi
}

# Prints the first 16 hex digits of the SHA-256 of standard input.
short_hash() { sha256sum | cut -c1-16; }

# Takes a lock for the rest of the script, so that two builds do not write one directory.
take_lock() {
  mkdir -p "$(dirname "$1")"
  exec 9>"$1"
  flock 9
}
