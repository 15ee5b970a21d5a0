#!/bin/bash
# Tests the guest kernel and image: the config check, reproducibility, and a boot under QEMU TCG.
#
#   guest_test.sh [--kernel VMLINUX] [--agent PATH] [--keep]
#
# PASS/FAIL lines, then `N passed, N failed`; non-zero on failure. Under a minute when the kernel is
# built. No KVM is used. --keep leaves the console log and prints where it is.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kernel='' agent='' keep=no
while (($#)); do
  case $1 in
    --kernel) kernel=${2:?}; shift 2 ;;
    --agent) agent=${2:?}; shift 2 ;;
    --keep) keep=yes; shift ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
done

passed=0 failed=0
work=$(mktemp -d)
cleanup() { if [[ $keep == yes ]]; then say "logs are in $work"; else rm -rf "$work"; fi; }
trap cleanup EXIT

# Counts and prints one result: result NAME STATUS [DETAIL].
result() {
  if (($2 == 0)); then
    passed=$((passed + 1))
    echo "PASS $1"
  else
    failed=$((failed + 1))
    echo "FAIL $1${3:+: $3}"
  fi
}

need_packages qemu-system-x86 squashfs-tools mmdebstrap binutils
[[ -n $kernel ]] || kernel=$("$guest_dir/build-kernel.sh" | tail -n1)
[[ -f $kernel ]] || die "no such kernel: $kernel"

# Builds the image's tools disk once: what a container would bring to try the kernel with.
tools_disk() {
  local disk=$cache_dir/x86_64/test-tools-1.squashfs
  if [[ ! -f $disk ]]; then
    say "fetching the test tools"
    mkdir -p "$cache_dir/x86_64"
    mmdebstrap --quiet --variant=extract --mode="$( ((EUID == 0)) && echo root || echo unshare)" \
      --include=nftables,iptables,iproute2,ipset,e2fsprogs,dash,coreutils \
      bookworm "$work/tools.tar" >&2 || die "mmdebstrap could not fetch the test tools"
    mkdir "$work/tools"
    tar -C "$work/tools" -xf "$work/tools.tar" --exclude=./dev/*
    mkdir -p "$work/tools/run" "$work/tools/tmp"
    mksquashfs "$work/tools" "$work/tools.sqfs" -comp zstd -quiet -no-progress -all-root >&2
    mv "$work/tools.sqfs" "$disk"
  fi
  echo "$disk"
}

# A lost option must be an error: VIRTIO_PMEM without its gate resolves to nothing.
test_config_check() {
  printf '# CONFIG_LIBNVDIMM is not set\nCONFIG_VIRTIO_PMEM=y\n' >"$work/lost.config"
  local status=0
  "$guest_dir/build-kernel.sh" --config-only --out "$work/config" --extra-config "$work/lost.config" \
    >"$work/lost.log" 2>&1 || status=$?
  result 'a lost option fails the config check' $((status != 0 ? 0 : 1))
  status=0
  grep -q 'CONFIG_VIRTIO_PMEM: asked for y, resolved to n' "$work/lost.log" || status=1
  result 'and the message names it' $status "$(tail -n1 "$work/lost.log")"
}

# Two builds in two caches, from directory trees made at different times, are one file.
test_image_reproducible() {
  local first second
  first=$(WYVERN_CACHE=$work/one "$guest_dir/build-image.sh" --agent "$agent" 2>>"$work/image.log" | tail -n1)
  mkdir -p "$work/two/guest/x86_64"
  cp -a "$work/one/guest/x86_64/"packages-* "$work/two/guest/x86_64/"
  sleep 1
  second=$(WYVERN_CACHE=$work/two "$guest_dir/build-image.sh" --agent "$agent" 2>>"$work/image.log" | tail -n1)
  local status=0
  cmp "$first" "$second" || status=1
  result 'the image is the same bytes when built twice' $status
  image=$first
  result 'its size is a multiple of 2 MiB' $(($(stat -c %s "$image") % (2 << 20) != 0))
  status=0
  "$guest_dir/build-image.sh" --agent /bin/ls >"$work/dynamic.log" 2>&1 && status=1
  result 'a dynamically linked agent is refused' $status
}

test_kernel_file() {
  local status=0
  readelf -n "$kernel" 2>/dev/null | grep -q Xen || status=1
  result 'vmlinux has the PVH note' $status
  status=0
  readelf -S "$kernel" | grep -q '\.BTF' || status=1
  result 'vmlinux has .BTF' $status
  status=0
  readelf -S "$kernel" | grep -q '\.debug_info' && status=1
  result 'vmlinux has no DWARF' $status
}

# Boots the image by PVH from virtio-pmem; pid 1 is the image's shell running guest_test_inside.sh.
test_boot() {
  local size status=0
  size=$(stat -c %s "$image")
  # The kernel runs the script from the disk; what follows its exit is never read.
  cp "$guest_dir/guest_test_inside.sh" "$work/script"
  truncate -s %64K "$work/script"
  timeout 100 qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 \
    -m 256M,maxmem=4G,slots=2 -nodefaults -no-user-config -display none -no-reboot \
    -action panic=exit-failure -kernel "$kernel" \
    -append "console=ttyS0 quiet panic=-1 maxcpus=1 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro init=/bin/sh -- /dev/vda" \
    -object "memory-backend-file,id=root,mem-path=$image,size=$size,share=off,readonly=on" \
    -device virtio-pmem-pci,memdev=root \
    -object memory-backend-ram,id=more,size=256M \
    -device virtio-mem-pci,memdev=more,requested-size=256M \
    -drive "if=none,id=script,format=raw,readonly=on,file=$work/script" -device virtio-blk-pci,drive=script \
    -drive "if=none,id=tools,format=raw,readonly=on,file=$(tools_disk)" -device virtio-blk-pci,drive=tools \
    -device virtio-rng-pci -device virtio-balloon-pci -device pvpanic-pci -device vmgenid,guid=auto \
    -serial "file:$work/console" >"$work/qemu.log" 2>&1 || status=$?
  grep -aE '^INFO' "$work/console" | tr -d '\r' || true
  local line
  while read -r line; do
    line=${line%$'\r'}
    case $line in
      PASS\ *) result "guest: ${line#PASS }" 0 ;;
      FAIL\ *) result "guest: ${line#FAIL }" 1 ;;
    esac
  done < <(grep -aE '^(PASS|FAIL) ' "$work/console")
  local ended=0
  grep -aq '^END' "$work/console" || ended=1
  result 'the guest ran to its end' $ended "$(tail -n 3 "$work/console" "$work/qemu.log" 2>/dev/null | tr '\n' ' ')"
  # 124 is the timeout; exit-failure is what pvpanic asks for.
  result 'the end of pid 1 is a panic that pvpanic reports' $((status == 1 ? 0 : 1)) "QEMU ended with $status"
}

if [[ -z $agent ]]; then
  # Until a real agent is named, busybox is the static program at its place.
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root busybox-static &&
    dpkg-deb -x busybox-static_*.deb busybox) || die "cannot download busybox-static: check apt"
  agent=$work/busybox/bin/busybox
fi
size -G "$kernel" | tail -n1 | sed 's/^/INFO vmlinux text, data, bss: /'
test_kernel_file
test_config_check
test_image_reproducible
test_boot
echo "$passed passed, $failed failed"
((failed == 0))
