#!/bin/bash
# tests/bench/run.sh [native|lab|all] [--build DIR] [--rounds N] [PART…] — measures Wyvern against the targets of its design and prints one table.
# native: on this host, without a guest. lab: in a lab machine, beside runc and QEMU microvm; PART chooses from boot ctr memory stdio
# blk fs net vsock hotplug roots bridge. As root, on an idle machine. Raw figures stay in DIR/bench/.
set -euo pipefail
cd "$(dirname "$0")/../.."

what=all
build=build/bench
parts=()
rounds=()
while [ $# -gt 0 ]; do
  case "$1" in
    native|lab|all) what=$1; shift ;;
    --build) build=${2:?--build needs a directory}; shift 2 ;;
    --rounds) rounds=(--rounds "${2:?--rounds needs a number}"); shift 2 ;;
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    boot|ctr|memory|stdio|blk|fs|net|vsock|hotplug|roots|bridge) parts+=("$1"); shift ;;
    *) echo "run.sh: unknown word '$1'" >&2; sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "run.sh: run it as root: the VMM jails itself" >&2; exit 1; }
export WYVERN_CACHE=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}
export CCACHE_DIR=${CCACHE_DIR:-$WYVERN_CACHE/ccache}
out=$build/bench
mkdir -p "$out" "$CCACHE_DIR"

./deploy/packages.sh build bench >"$out/packages.log" 2>&1 || { tail -20 "$out/packages.log"; exit 1; }
targets=(wyvern-bench wyvern-bench-guest wyvern-vmm wyvern-fs)
[ $what = lab ] || targets+=(virtio_bench blk_bench net_bench vsock_bench fs_bench fs_ring_bench)
[ $what = native ] || targets+=(wyvern containerd-shim-wyvern-v2 wyvern-anchor wyvern-agent wyvern-boot-test)
{ cmake --preset release -B "$build" -DWYVERN_TESTS=ON && ninja -C "$build" "${targets[@]}"; } >"$out/build.log" 2>&1 ||
  { tail -20 "$out/build.log"; exit 1; }

echo "load: $(cut -d' ' -f1-3 /proc/loadavg); $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" >&2
failed=0
if [ $what != lab ]; then
  python3 tests/bench/native.py "$build" "$out/native.json"
fi
if [ $what != native ]; then
  extra=$(mktemp -d)
  trap 'rm -rf "$extra"' EXIT
  strip -o "$extra/wyvern-bench" "$build/bin/wyvern-bench"
  strip -o "$extra/wyvern-bench-guest" "$build/bin/wyvern-bench-guest"
  # The machine that the network device is attached to; its symbols say where it copies.
  strip --strip-debug -o "$extra/wyvern-boot-test" "$build/sandbox-vmm/machine/wyvern-boot-test"
  tests/lab/lab images >/dev/null
  # The peer is the QEMU that the lab itself runs on: Debian 13's, as the lab machine is.
  emulator=$(ls -td "$WYVERN_CACHE"/lab/qemu-x86_64-*/root | head -1)
  mkdir -p "$extra/qemu/usr/bin" "$extra/qemu/usr/lib" "$extra/qemu/usr/share"
  cp "$emulator/usr/bin/qemu-system-x86_64" "$extra/qemu/usr/bin/"
  cp -a "$emulator/usr/lib/x86_64-linux-gnu" "$extra/qemu/usr/lib/"
  cp -aL "$emulator"/usr/share/{qemu,seabios} "$extra/qemu/usr/share/"
  tests/lab/lab run --build "$build" --memory 6144 --timeout 7200 --share-out "$out" \
    --add "$extra/wyvern-bench" --add "$extra/wyvern-bench-guest" --add "$extra/wyvern-boot-test" --add "$extra/qemu" -- \
    python3 /opt/wyvern/tests/bench/lab/measure.py "${rounds[@]}" "${parts[@]}" >"$out/lab.log" 2>&1 || failed=1
  [ $failed = 0 ] || { grep -E 'failed|Error' "$out/lab.log" || tail -20 "$out/lab.log"; } >&2
fi
python3 tests/bench/report.py "$out/native.json" "$out/lab.json"
exit $failed
