#!/bin/bash
# deploy/install.sh [--build DIR] [--stage DIR] [--installed-packages] [-- OPTION…] — installs what was built, the guest and the default configuration, as root.
# Lays all out in a directory and runs its `wyvern install OPTION…`; with --stage it only fills DIR, to be copied to other machines.
# --installed-packages: the guest's image is made of what is installed here (deploy/guest/build-image.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/release
stage=
image_options=()
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=${2:?--build needs a directory}; shift 2 ;;
    --stage) stage=${2:?--stage needs a directory}; shift 2 ;;
    --) shift; break ;;
    --installed-packages) image_options+=("$1"); shift ;;
    *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
export WYVERN_CACHE=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}
keep=$stage
if [ -z "$stage" ]; then
  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
fi
for program in wyvern containerd-shim-wyvern-v2; do
  install -D -m 755 --strip "$build/bin/$program" "$stage/bin/$program"
done
for program in wyvern-vmm wyvern-fs wyvern-anchor; do
  install -D -m 755 --strip "$build/bin/$program" "$stage/libexec/$program"
done
kernel=$(deploy/guest/build-kernel.sh | tail -1)
image=$(deploy/guest/build-image.sh --agent "$build/bin/wyvern-agent" "${image_options[@]}" | tail -1)
install -D -m 644 "$kernel" "$stage/share/guest/vmlinux"
install -D -m 644 "$image" "$stage/share/guest/image.erofs"
for unit in deploy/systemd/*; do
  [ ! -e "$unit" ] || install -D -m 644 "$unit" "$stage/share/systemd/${unit##*/}"
done
[ -n "$keep" ] || "$stage/bin/wyvern" install --from "$stage" "$@"
