#!/bin/bash
# Builds the guest's root image: one EROFS with wyvern-agent, crun and its libraries, busybox.
#
#   build-image.sh --agent PATH [--arch x86_64] [--out DIR] [--installed-packages]
#   build-image.sh --print-packages
#
# --installed-packages takes the files of the packages that are installed here, and no network, as a build of Debian packages
# needs it; otherwise those that apt would download now. --print-packages prints their names and ends.
# The last line printed is the image's path. Same inputs, same bytes: the image is cached by the
# hash of the agent, the Debian packages' versions, this script and mkfs.erofs.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

arch=x86_64 agent='' out='' installed=no
# crun and the closure of its libraries. The closure is checked below: a library that no package
# here brings is an error, one that nothing needs does not enter the image.
packages=(crun libc6 libcap2 libseccomp2 libsystemd0 libyajl2 libgcrypt20 libgpg-error0 liblz4-1
  liblzma5 libzstd1 busybox-static)
while (($#)); do
  case $1 in
    --agent) agent=${2:?--agent needs a path}; shift 2 ;;
    --arch) arch=${2:?--arch needs a name}; shift 2 ;;
    --out) out=${2:?--out needs a directory}; shift 2 ;;
    --installed-packages) installed=yes; shift ;;
    --print-packages) printf '%s\n' "${packages[@]}"; exit 0 ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
done
[[ -n $agent ]] || die "--agent PATH is needed: the static wyvern-agent to put into the image"
[[ -f $agent ]] || die "no such file: $agent"
case $arch in
  x86_64) deb_arch=amd64 triplet=x86_64-linux-gnu loader=lib64/ld-linux-x86-64.so.2 machine='X86-64' ;;
  *) die "architecture '$arch' is not supported yet (x86_64 is)" ;;
esac

# What `wyvern exec --guest` and a bug hunt need; the rest is `busybox NAME`.
applets_bin=(ash base64 cat chmod chown cmp cp cut date dd df diff dmesg du echo env expr false
  find free grep gunzip gzip head hexdump hostname id ip kill killall less ln ls md5sum mkdir
  mknod mkfifo mktemp more mount mv nc netstat nproc nslookup od pidof ping ps pwd readlink
  realpath rm rmdir sed seq sh sha256sum sleep sort stat strings stty sync tail tar tee test time
  timeout top touch tr true tty umount uname uniq uptime usleep vi wc wget which xargs yes zcat)
applets_sbin=(blockdev halt ifconfig losetup poweroff reboot route swapoff swapon switch_root
  sysctl)

# Prints name, version and checksum of each package, as apt would download it now; of an installed one name and version.
package_versions() {
  if [[ $installed == yes ]]; then
    dpkg-query -W -f '${db:Status-Abbrev}${Package} ${Version} installed\n' "${packages[@]/%/:$deb_arch}" 2>/dev/null |
      sed -n 's/^ii //p' | LC_ALL=C sort -u
    return
  fi
  apt-cache show --no-all-versions "${packages[@]/%/:$deb_arch}" 2>/dev/null |
    awk '/^Package:/{p=$2} /^Version:/{v=$2} /^SHA256:/{print p, v, $2}' | LC_ALL=C sort -u
}

# Downloads and unpacks the packages into $1, unless they are there.
unpack_packages() {
  local target=$1 staging
  [[ -d $target ]] && return 0
  staging=$(mktemp -d "$cache_dir/$arch/unpack.XXXXXX")
  if [[ $installed == yes ]]; then
    mkdir "$staging/root"
    local file
    dpkg -L "${packages[@]/%/:$deb_arch}" | LC_ALL=C sort -u | while read -r file; do
      [[ ! -f $file ]] || cp -d --parents "$file" "$staging/root"
    done
    mv "$staging/root" "$target"
    rmdir "$staging"
    return
  fi
  # apt's download user needs to reach the directory; failing that it downloads as root.
  (cd "$staging" && apt-get download -q -q -o APT::Sandbox::User=root \
    "${packages[@]/%/:$deb_arch}" >&2) || die "cannot download the image's packages: check apt and the network"
  local deb name version sum
  while read -r name version sum; do
    deb=$(echo "$staging/${name}"_*_"$deb_arch".deb)
    echo "$sum  $deb" | sha256sum -c --quiet >&2 || die "$name $version: wrong checksum"
    dpkg-deb -x "$deb" "$staging/root"
    rm "$deb"
  done < <(package_versions)
  mv "$staging/root" "$target"
  rmdir "$staging"
}

# Prints the DT_NEEDED names of an ELF file.
needed_by() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p'; }

# Copies the libraries that $1 needs, and theirs, from the packages in $2 to the tree $3.
copy_closure() {
  local queue=("$1") from=$2 to=$3 name source
  while ((${#queue[@]})); do
    local file=${queue[0]}
    queue=("${queue[@]:1}")
    for name in $(needed_by "$file"); do
      [[ -e $to/lib/$triplet/$name || $name == "${loader##*/}" ]] && continue
      source=$(find "$from/lib/$triplet" "$from/usr/lib/$triplet" -maxdepth 1 -name "$name" | head -n1)
      [[ -n $source ]] || die "$(basename "$file") needs $name, which no package of the list brings"
      install -m 0755 "$(readlink -f "$source")" "$to/lib/$triplet/$name"
      queue+=("$to/lib/$triplet/$name")
    done
  done
}

# Lays out the root directory $2 from the packages in $1.
stage_root() {
  local from=$1 to=$2 name
  mkdir -p "$to"/{bin,sbin,lib/"$triplet",lib64,usr,etc,proc,sys,dev,run,tmp,var,mnt}
  for name in bin sbin lib lib64; do ln -s "../$name" "$to/usr/$name"; done
  ln -s ../run "$to/var/run"
  ln -s ../tmp "$to/var/tmp"
  # Debug information stays with the build; every page of the image costs the host's page cache.
  strip --strip-all -o "$to/sbin/wyvern-agent" "$agent"
  chmod 0755 "$to/sbin/wyvern-agent"
  ln -s wyvern-agent "$to/sbin/init"
  ln -s sbin/wyvern-agent "$to/init"

  install -m 0755 "$from/usr/bin/crun" "$to/bin/crun"
  mkdir -p "$to/$(dirname "$loader")"
  install -m 0755 "$(readlink -f "$from/$loader" || true)" "$to/$loader" 2>/dev/null ||
    install -m 0755 "$from/lib/$triplet/${loader##*/}" "$to/$loader"
  copy_closure "$to/bin/crun" "$from" "$to"

  install -m 0755 "$from/bin/busybox" "$to/bin/busybox"
  for name in "${applets_bin[@]}"; do ln -s busybox "$to/bin/$name"; done
  for name in "${applets_sbin[@]}"; do ln -s ../bin/busybox "$to/sbin/$name"; done

  printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$to/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$to/etc/group"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$to/etc/hosts"
  package_versions | cut -d' ' -f1,2 >"$to/etc/wyvern-packages"
  find "$to" -type d -exec chmod 0755 {} +
  chmod 1777 "$to/tmp"
}

"$repo_dir/deploy/packages.sh" image >&2
mkdir -p "$cache_dir/$arch"
versions=$(package_versions)
if [[ $installed == yes ]] && (($(wc -l <<<"$versions") != ${#packages[@]})); then
  die "not all of these are installed: ${packages[*]}"
fi
if (($(wc -l <<<"$versions") != ${#packages[@]})); then
  ((EUID == 0)) || die "apt does not know all packages of the image; run as root: apt-get update"
  apt-get update -qq >&2
  versions=$(package_versions)
  (($(wc -l <<<"$versions") == ${#packages[@]})) || die "apt does not know all of: ${packages[*]}"
fi
[[ $(readelf -h "$agent" 2>/dev/null) == *Machine:*"$machine"* ]] || die "$agent is not an ELF for $arch"
[[ $(readelf -lW "$agent") != *INTERP* ]] || die "$agent is dynamically linked; the agent must be static"

hash=$({ sha256sum <"$agent"; echo "$arch $versions"; sha256sum <"$0"; sha256sum <"$guest_dir/lib.sh"
  sha256sum <"$(command -v mkfs.erofs)"; } | short_hash)
result=$cache_dir/$arch/image-$hash.erofs
if [[ ! -f $result ]]; then
  take_lock "$cache_dir/$arch/image.lock"
  unpacked=$cache_dir/$arch/packages-$(short_hash <<<"$versions")
  unpack_packages "$unpacked"
  work=$(mktemp -d "$cache_dir/$arch/image.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  (umask 022 && stage_root "$unpacked" "$work/root")
  # noinline_data: only files in plain blocks can be mapped by DAX. No xattrs, one owner, one time,
  # a fixed UUID: nothing of this machine in the image.
  mkfs.erofs --quiet -x-1 -Enoinline_data -T0 -U 77797665-726e-4000-8000-677565737401 --all-root \
    "$work/image" "$work/root" >&2 || die "mkfs.erofs failed"
  # The VMM maps it with 2 MiB pages where it can.
  truncate -s %2M "$work/image"
  chmod 0644 "$work/image"
  mv "$work/image" "$result"
fi
if [[ -n $out ]]; then
  mkdir -p "$out"
  cp --reflink=auto "$result" "$out/image.erofs"
  result=$out/image.erofs
fi
say "$(stat -c %s "$result") bytes"
echo "$result"
