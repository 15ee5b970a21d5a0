#!/bin/bash
# Proofs: the ring cores of sandbox-vmm/virtio, by CBMC (sandbox-vmm/virtio/proof/README.md). Debian 12 has no CBMC of the version that
# they are written for, so Debian 13's is run in place, out of a root of its own in the cache; it preprocesses with this machine's gcc.
set -uo pipefail
./deploy/packages.sh build lab || exit 1

toolbox=$WYVERN_CACHE/toolbox/cbmc-$(dpkg --print-architecture)-trixie
if [ ! -x "$toolbox/usr/bin/cbmc" ]; then
  new=$toolbox.$$
  mkdir -p "$(dirname "$toolbox")"
  trap 'rm -rf --one-file-system "$new"' EXIT
  mmdebstrap --quiet --variant=extract --mode="$( ((EUID == 0)) && echo root || echo unshare)" --include=cbmc \
    --aptopt='APT::Install-Recommends "false"' trixie "$new" "${WYVERN_DEBIAN_MIRROR:-http://deb.debian.org/debian}" || exit 1
  rm -rf --one-file-system "$toolbox"
  mv "$new" "$toolbox"
fi
loader=$(echo "$toolbox"/usr/lib/*/ld-linux-*.so.*)
sandbox-vmm/virtio/proof/prove.py "$loader" --library-path "$(dirname "$loader"):$toolbox/usr/lib" "$toolbox/usr/bin/cbmc"
