#!/bin/bash
# deploy/packages.sh GROUP… — installs the Debian packages of the named groups (bench, build, guest, host, lab, test) if any is missing.
# The one list of what a fresh Debian 12 needs; ARCHITECTURE.md gives each library its reason.
set -euo pipefail

build=(g++ cmake ninja-build ccache pkg-config git
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libexpected-dev libfmt-dev libcli11-dev nlohmann-json3-dev libyaml-cpp-dev
  libseccomp-dev liburing-dev libarchive-dev
  libssl-dev zlib1g-dev libzstd-dev liblz4-dev liblzma-dev libbz2-dev libacl1-dev nettle-dev)
guest=(linux-source-6.12 gcc make bc bison flex libelf-dev libssl-dev dwarves xz-utils kmod cpio rsync python3
  erofs-utils busybox-static ccache)
host=(containerd runc)
bench=(libbenchmark-dev libgtest-dev libgmock-dev python3 binutils)
lab=(mmdebstrap e2fsprogs cpio kmod tar python3 busybox-static erofs-utils zstd xz-utils)
tests=(qemu-system-x86 qemu-system-common clang-16 clang-tidy-16 clang-format-16 libclang-rt-16-dev libgtest-dev libgmock-dev libbenchmark-dev
  crun busybox-static python3 python3-pytest cpio acpica-tools iproute2 procps strace e2fsprogs squashfs-tools)

wanted=()
for group in "$@"; do
  case "$group" in
    bench) wanted+=("${bench[@]}") ;;
    build) wanted+=("${build[@]}") ;;
    guest) wanted+=("${guest[@]}") ;;
    host) wanted+=("${host[@]}") ;;
    lab) wanted+=("${lab[@]}") ;;
    test) wanted+=("${tests[@]}") ;;
    *) echo "packages.sh: unknown group '$group' (bench, build, guest, host, lab, test)" >&2; exit 2 ;;
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
apt-get install -q -y --no-install-recommends "${missing[@]}"
