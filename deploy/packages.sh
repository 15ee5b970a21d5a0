#!/bin/bash
# deploy/packages.sh GROUP… — installs the Debian packages of the named groups (bench, build, debian, guest = kernel + image, guest-test, host, interop,
# lab, test) if any is missing. The one list of what a fresh Debian 12 needs; ARCHITECTURE.md gives each library and tool its reason.
set -euo pipefail

build=(g++ cmake ninja-build ccache pkg-config git
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libexpected-dev libfmt-dev libcli11-dev nlohmann-json3-dev libyaml-cpp-dev
  libseccomp-dev liburing-dev libarchive-dev libdbus-1-dev libnl-3-dev libnl-route-3-dev
  zlib1g-dev libzstd-dev liblz4-dev liblzma-dev libbz2-dev libacl1-dev nettle-dev)
kernel=(linux-source-6.12 gcc make libc6-dev bc bison flex libelf-dev dwarves xz-utils binutils perl python3 ccache)
image=(erofs-utils binutils)
guest_test=(qemu-system-x86 squashfs-tools mmdebstrap binutils)
host=(containerd runc)
bench=(libbenchmark-dev libgtest-dev libgmock-dev python3 binutils)
# tests/interop, natively; what is missing is skipped there.
interop=(qemu-system-x86 qemu-utils dpdk-dev busybox-static cpio gcc libc6-dev python3 python3-pytest)
lab=(mmdebstrap e2fsprogs cpio kmod tar binutils python3)
tests=(clang-16 clang-tidy-16 clang-format-16 llvm-16 libclang-rt-16-dev libgtest-dev libgmock-dev libbenchmark-dev
  crun busybox-static e2fsprogs iproute2 acpica-tools qemu-system-x86 cpio python3 python3-pytest python3-yaml fish zsh)
# debian/'s packages; not of a build: the tools that make them, and what judges them.
debian=(debhelper dpkg-dev lintian)

wanted=()
for group in "$@"; do
  case "$group" in
    bench) wanted+=("${bench[@]}") ;;
    build) wanted+=("${build[@]}") ;;
    debian) wanted+=("${debian[@]}") ;;
    guest) wanted+=("${kernel[@]}" "${image[@]}") ;;
    image) wanted+=("${image[@]}") ;;
    kernel) wanted+=("${kernel[@]}") ;;
    guest-test) wanted+=("${guest_test[@]}") ;;
    host) wanted+=("${host[@]}") ;;
    interop) wanted+=("${interop[@]}") ;;
    lab) wanted+=("${lab[@]}") ;;
    test) wanted+=("${tests[@]}") ;;
    *) echo "packages.sh: unknown group '$group' (bench, build, debian, guest, guest-test, host, image, interop, kernel, lab, test)" >&2; exit 2 ;;
  esac
done

missing=()
for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
  dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "packages.sh: run as root, or install by hand: apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
unknown=()
for package in "${missing[@]}"; do
  [ -n "$(apt-cache madison "$package")" ] || unknown+=("$package")
done
if [ ${#unknown[@]} -gt 0 ]; then
  echo "packages.sh: apt knows no ${unknown[*]}" >&2
  if [[ " ${unknown[*]} " == *' linux-source-6.12 '* ]]; then
    echo "packages.sh: Debian 12 has linux-source-6.12 among its security updates: add to /etc/apt/sources.list" >&2
    echo "  deb http://deb.debian.org/debian-security bookworm-security main" >&2
  fi
  exit 1
fi
apt-get install -q -y --no-install-recommends "${missing[@]}"
