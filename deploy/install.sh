#!/bin/bash
# deploy/install.sh [--root DIR] [--build DIR] — installs the built programs, the guest and the default configuration, as root.
# Layout: /usr/bin/{wyvern,containerd-shim-wyvern-v2}, /usr/libexec/wyvern/, /usr/share/wyvern/guest/, /etc/wyvern/wyvern.yaml.
set -euo pipefail
cd "$(dirname "$0")/.."
root=
build=build/release
while [ $# -gt 0 ]; do
  case "$1" in
    --root) root=${2:?--root needs a directory}; shift 2 ;;
    --build) build=${2:?--build needs a directory}; shift 2 ;;
    *) sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
export WYVERN_CACHE=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}
for program in wyvern containerd-shim-wyvern-v2; do
  install -D -m 755 --strip "$build/bin/$program" "$root/usr/bin/$program"
done
for program in wyvern-vmm wyvern-fs wyvern-anchor; do
  install -D -m 755 --strip "$build/bin/$program" "$root/usr/libexec/wyvern/$program"
done
kernel=$(deploy/guest/build-kernel.sh | tail -1)
image=$(deploy/guest/build-image.sh --agent "$build/bin/wyvern-agent" | tail -1)
install -D -m 644 "$kernel" "$root/usr/share/wyvern/guest/vmlinux"
install -D -m 644 "$image" "$root/usr/share/wyvern/guest/image.erofs"
[ -e "$root/etc/wyvern/wyvern.yaml" ] || install -D -m 644 configs/wyvern.yaml "$root/etc/wyvern/wyvern.yaml"
echo "installed; try: wyvern check"
