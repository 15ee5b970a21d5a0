#!/bin/bash
# tests/conformance/clients.sh NAME… — builds clients that Debian has not, from their Go modules at pinned versions, into
# $WYVERN_CACHE/clients/<name>-<version>/ and prints each directory. NAME: nerdctl,
# containerd (with its ctr and shim of runc).
# Exit 3 and a reason on stderr where Go or its module proxy is not at hand: a suite then skips with that reason.
set -euo pipefail

nerdctl=v2.0.5
containerd=v2.1.4

cache=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}/clients
command -v go >/dev/null || { echo "clients.sh: no Go on this host" >&2; exit 3; }
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }

# build NAME MODULE VERSION PACKAGES COMMAND…: `go COMMAND` makes the programs of the module's PACKAGES, of which one is NAME, in $out.
build() {
  local name=$1 module=$2 version=$3 source work packages
  read -ra packages <<<"$4"
  shift 4
  out=$cache/$name-$version
  if [ ! -e "$out/$name" ]; then
    mkdir -p "$cache"
    # Not every proxy has the checksum database: what the module itself needs is checked by its go.sum, and it by its pinned version's tag.
    source=$(cd / && GOFLAGS=-mod=mod GONOSUMDB=$module go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    [ -n "$source" ] || { echo "clients.sh: $module@$version cannot be had here" >&2; exit 3; }
    work=$(mktemp -d "$cache/$name.XXXXXX")
    cp -r "$source" "$work/source"
    chmod -R u+w "$work"
    mkdir "$work/out"
    if ! (cd "$work/source" && export GOFLAGS=-mod=mod CGO_ENABLED=0 && go "$@" -trimpath -o "$work/out/" -ldflags '-s -w' "${packages[@]}") >"$work/log" 2>&1; then
      tail -20 "$work/log" >&2
      rm -rf "$work"
      echo "clients.sh: $name does not build" >&2
      exit 1
    fi
    rm -rf "$out"
    mv "$work/out" "$out"
    rm -rf "$work"
  fi
  echo "$out"
}

for name in "$@"; do
  case $name in
    nerdctl) build nerdctl github.com/containerd/nerdctl/v2 $nerdctl ./cmd/nerdctl build ;;
    # btrfs and device-mapper's snapshotter by libdm want cgo; the programs are to run in any machine.
    containerd) build containerd github.com/containerd/containerd/v2 $containerd './cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2' build -tags no_btrfs ;;
    *) echo "clients.sh: unknown client '$name'" >&2; exit 2 ;;
  esac
done
