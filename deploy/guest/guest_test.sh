#!/bin/bash
# Tests the guest kernel and image: the config check, reproducibility, and a boot under QEMU TCG.
#
#   guest_test.sh [--kernel VMLINUX] [--agent PATH] [--long] [--keep]
#
# PASS/FAIL lines, then `N passed, N failed`; non-zero on failure. Under a minute when the kernel is
# built. No KVM is used. --long adds two whole kernel builds that must agree. --keep leaves the console log and prints where it is.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kernel='' agent='' keep=no long=no
while (($#)); do
  case $1 in
    --kernel) kernel=${2:?}; shift 2 ;;
    --agent) agent=${2:?}; shift 2 ;;
    --keep) keep=yes; shift ;;
    --long) long=yes; shift ;;
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

"$repo_dir/deploy/packages.sh" guest-test >&2
[[ -n $kernel ]] || kernel=$("$guest_dir/build-kernel.sh" | tail -n1)
[[ -f $kernel ]] || die "no such kernel: $kernel"

# Builds the image's tools disk once: what a container would bring to try the kernel with.
tools_disk() {
  local disk=$cache_dir/x86_64/test-tools-3.squashfs
  if [[ ! -f $disk ]]; then
    say "fetching the test tools"
    mkdir -p "$cache_dir/x86_64"
    mmdebstrap --quiet --variant=extract --mode="$( ((EUID == 0)) && echo root || echo unshare)" \
      --include=nftables,iptables,iproute2,ipset,e2fsprogs,mount,dash,coreutils \
      bookworm "$work/tools.tar" >&2 || die "mmdebstrap could not fetch the test tools"
    mkdir "$work/tools"
    tar -C "$work/tools" -xf "$work/tools.tar" --exclude=./dev/*
    mkdir -p "$work"/tools/{run,tmp,proc,sys,dev}
    mksquashfs "$work/tools" "$work/tools.sqfs" -comp zstd -quiet -no-progress -all-root >&2
    mv "$work/tools.sqfs" "$disk"
  fi
  echo "$disk"
}

# A lost option must be an error that names it. --long lets kconfig lose it: VIRTIO_PMEM without its
# gate resolves to nothing.
test_config_check() {
  local status=0 config=${kernel%/*}/config
  "$guest_dir/build-kernel.sh" --check-config "$config" >"$work/check.log" 2>&1 || status=$?
  result "the kernel's configuration is what the fragments ask for" $status "$(tail -n 3 "$work/check.log")"
  sed 's/^CONFIG_VIRTIO_PMEM=y/# CONFIG_VIRTIO_PMEM is not set/' "$config" >"$work/lost"
  status=0
  "$guest_dir/build-kernel.sh" --check-config "$work/lost" >"$work/lost.log" 2>&1 || status=$?
  result 'a lost option fails the config check' $((status != 0 ? 0 : 1))
  status=0
  grep 'CONFIG_VIRTIO_PMEM: asked for y, resolved to n' "$work/lost.log" >/dev/null || status=1
  result 'and the message names it' $status "$(tail -n1 "$work/lost.log")"
  [[ $long == yes ]] || return 0
  printf '# CONFIG_LIBNVDIMM is not set\nCONFIG_VIRTIO_PMEM=y\n' >"$work/gate.config"
  status=0
  "$guest_dir/build-kernel.sh" --config-only --out "$work/config" --extra-config "$work/gate.config" \
    >"$work/gate.log" 2>&1 || status=$?
  result 'a lost gate fails the build' $((status != 0 ? 0 : 1)) "$(tail -n1 "$work/gate.log")"
}

# Two kernels built in two caches are one file (--long: it takes two builds).
test_kernel_reproducible() {
  local first second status=0
  first=$(WYVERN_CACHE=$work/k1 "$guest_dir/build-kernel.sh" | tail -n1)
  second=$(WYVERN_CACHE=$work/k2-longer-name "$guest_dir/build-kernel.sh" | tail -n1)
  cmp "$first" "$second" || status=1
  result 'the kernel is the same bytes when built twice in two places' $status
}

# Two builds in two caches, from directory trees made at different times, are one file.
test_image_reproducible() {
  local first second
  # Packages already fetched need not come again.
  mkdir -p "$work/one/guest/x86_64"
  cp -r "$cache_dir/x86_64/"packages-* "$work/one/guest/x86_64/" 2>/dev/null || true
  first=$(WYVERN_CACHE=$work/one "$guest_dir/build-image.sh" --agent "$agent" 2>>"$work/image.log" | tail -n1)
  # The second build downloads nothing; its copy of the packages has other times and inodes.
  mkdir -p "$work/two/guest/x86_64"
  cp -r "$work/one/guest/x86_64/"packages-* "$work/two/guest/x86_64/"
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
  local notes sections
  notes=$(readelf -nW "$kernel" 2>/dev/null)
  sections=$(readelf -SW "$kernel")
  result 'vmlinux has the PVH note' "$([[ $notes == *Xen* ]]; echo $?)"
  result 'vmlinux has .BTF' "$([[ $sections == *' .BTF '* ]]; echo $?)"
  result 'vmlinux has no DWARF' "$([[ $sections != *.debug_info* ]]; echo $?)"
}

# Boots the image by PVH from virtio-pmem; pid 1 is the image's shell running guest_test_inside.sh.
test_boot() {
  local size tools status=0
  tools=$(tools_disk)
  size=$(stat -c %s "$image")
  # The kernel runs the script from the disk; what follows its exit is never read.
  cp "$guest_dir/guest_test_inside.sh" "$work/script"
  truncate -s %64K "$work/script"
  timeout 100 qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 \
    -m 256M,maxmem=4G,slots=2 -nodefaults -no-user-config -display none -no-reboot \
    -action panic=exit-failure -kernel "$kernel" \
    -append "console=ttyS0 quiet panic=-1 maxcpus=1 root=/dev/pmem0 rootfstype=erofs rootflags=dax=always ro init=/bin/sh -- /dev/vda" \
    -object memory-backend-ram,id=more,size=512M \
    -device virtio-mem-pci,memdev=more,requested-size=512M \
    -object "memory-backend-file,id=root,mem-path=$image,size=$size,share=off,readonly=on" \
    -device virtio-pmem-pci,memdev=root \
    -drive "if=none,id=script,format=raw,readonly=on,file=$work/script" -device virtio-blk-pci,drive=script \
    -drive "if=none,id=tools,format=raw,readonly=on,file=$tools" -device virtio-blk-pci,drive=tools \
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
[[ $long == no ]] || test_kernel_reproducible
echo "$passed passed, $failed failed"
((failed == 0))
