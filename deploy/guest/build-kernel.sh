#!/bin/bash
# Builds the guest kernel from Debian's linux-source-6.12 and configs/guest-kernel/.
#
#   build-kernel.sh [--arch x86_64] [--out DIR] [--extra-config FILE] [--ccache]
#   build-kernel.sh [--arch x86_64] [--extra-config FILE] --config-only | --check-config FILE
#
# The last line printed is the path of vmlinux (config and System.map lie beside it). Same inputs,
# same bytes: the result is cached by the hash of the source package, the fragments, this script and
# the tools. --config-only stops after the check of the resolved configuration and prints its path;
# --check-config holds a resolved configuration against the fragments and says what differs.
# --extra-config adds a fragment of one's own; it is checked like ours. --ccache is for work on the
# fragments: a first build through ccache is a fifth slower (measured), the next ones are quick.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

source_package=linux-source-6.12
source_archive=/usr/src/$source_package.tar.xz
config_dir=$repo_dir/configs/guest-kernel

arch=x86_64 out='' config_only=no extra='' ccache=no check=''
while (($#)); do
  case $1 in
    --arch) arch=${2:?--arch needs a name}; shift 2 ;;
    --out) out=${2:?--out needs a directory}; shift 2 ;;
    --config-only) config_only=yes; shift ;;
    --check-config) check=${2:?--check-config needs a file}; shift 2 ;;
    --extra-config) extra=${2:?--extra-config needs a file}; shift 2 ;;
    --ccache) ccache=yes; shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) die "unknown option '$1'; see --help" ;;
  esac
done
case $arch in
  x86_64) kernel_arch=x86_64 ;;
  *) die "architecture '$arch' is not supported yet (x86_64 is)" ;;
esac
fragments=("$config_dir/common.config" "$config_dir/$arch.config")
[[ -z $extra ]] || fragments+=("$extra")
for file in "${fragments[@]}"; do [[ -f $file ]] || die "no such file: $file"; done

# Prints what the resolved configuration $1 lacks of the fragments; true when nothing. A later
# fragment overrides an earlier one, as it does for kconfig.
check_config() {
  awk '
    FNR == NR { if (/^CONFIG_/) { at = index($0, "="); got[substr($0, 1, at - 1)] = substr($0, at + 1) }; next }
    /^# CONFIG_[A-Za-z0-9_]+ is not set$/ { want[$2] = "n"; place[$2] = FILENAME ":" FNR; next }
    /^CONFIG_[A-Za-z0-9_]+=/ {
      at = index($0, "="); name = substr($0, 1, at - 1)
      want[name] = substr($0, at + 1); place[name] = FILENAME ":" FNR; next
    }
    /^(# )?CONFIG_/ { printf "%s:%d: not an option: %s\n", FILENAME, FNR, $0; bad = 1 }
    END {
      for (name in want) {
        have = (name in got) ? got[name] : "n"
        if (have == want[name]) continue
        printf "%s: %s: asked for %s, resolved to %s\n", place[name], name, want[name], have
        bad = 1
      }
      exit bad
    }' "$1" "${fragments[@]}"
}

# Ends the script with the differences when $1 is not what the fragments ask for.
require_config() {
  local differences
  if ! differences=$(check_config "$1"); then
    printf '%s\n' "$differences" >&2
    die "the resolved configuration is not what the fragments ask for (a gate is missing?)"
  fi
}

if [[ -n $check ]]; then
  [[ -f $check ]] || die "no such file: $check"
  require_config "$check"
  say "$check has every option asked for"
  exit 0
fi

"$repo_dir/deploy/packages.sh" kernel >&2

# Every tool whose version can change the bytes.
tool_versions() {
  gcc --version | head -n1
  ld --version | head -n1
  pahole --version
  flex --version
  bison --version | head -n1
}

source_version=$(dpkg-query -W -f '${Version}' "$source_package")
# Comments are not inputs.
hash=$({ echo "$arch $source_version"; tool_versions; grep -vE '^ *(#|$)' "$0"
  cat "${fragments[@]}" | grep -E '^(CONFIG_|# CONFIG_[A-Z0-9a-z_]+ is not set)'; } | short_hash)
result=$cache_dir/$arch/kernel-$hash

# Unpacks the source and resolves the configuration under $1.
configure() {
  local work=$1
  say "unpacking $source_package $source_version"
  mkdir -p "$work/source" "$work/objects"
  tar -C "$work/source" --strip-components=1 -xf "$source_archive"
  cat "${fragments[@]}" >"$work/fragments"
  # allnoconfig and not olddefconfig: what no line asks for is off, whatever its default.
  make -s -C "$work/source" O="$work/objects" ARCH="$kernel_arch" \
    KCONFIG_ALLCONFIG="$work/fragments" allnoconfig >"$work/config.log" 2>&1 ||
    { cat "$work/config.log" >&2; die "kconfig failed"; }
  require_config "$work/objects/.config"
}

# Compiles under $1.
compile() {
  local work=$1 compiler=gcc
  [[ $ccache == no ]] || compiler='ccache gcc'
  say "compiling with $(nproc) processors"
  # BTF holds types, not where variables live: without variable tracking a third of the debug
  # information and a fifth of the compile time go, and the code is the same.
  # The build-ids of vmlinux and the vDSO are taken of the debug information too, which goes later:
  # the directory's name must not be in it.
  local same_place="-fdebug-prefix-map=$work=/guest-kernel"
  # XFS has as many trace points as all the rest of this kernel, and a start pays for each (trace_event_update_all): a fifth of it in the lab.
  local without_traces
  mapfile -t without_traces < <(cd "$work/source/fs/xfs" && find . -name 'xfs_*.c' -printf '%P\n' | sort |
    sed 's|^\(.*\)c$|CFLAGS_\1o=-DNOTRACE|')
  make -s -C "$work/source" O="$work/objects" ARCH="$kernel_arch" -j"$(nproc)" CC="$compiler" "${without_traces[@]}" \
    KCFLAGS="-fno-var-tracking -fno-var-tracking-assignments $same_place" KAFLAGS="$same_place" \
    KBUILD_BUILD_TIMESTAMP='Thu Jan 1 00:00:00 UTC 1970' KBUILD_BUILD_VERSION=1 \
    KBUILD_BUILD_USER=wyvern KBUILD_BUILD_HOST=wyvern vmlinux >"$work/build.log" 2>&1 ||
    { tail -n 40 "$work/build.log" >&2; die "the kernel did not compile; the log is $work/build.log"; }
}

# Puts what the VMM and people need into $2: DWARF and the symbol table go, .BTF and the PVH note stay.
harvest() {
  local work=$1 to=$2
  mkdir -p "$to"
  cp "$work/objects/.config" "$to/config"
  cp "$work/objects/System.map" "$to/System.map"
  strip --strip-debug -o "$to/vmlinux" "$work/objects/vmlinux"
  [[ $(readelf -nW "$to/vmlinux" 2>/dev/null) == *Xen* ]] || die "the PVH note is gone from vmlinux"
  [[ $(readelf -SW "$to/vmlinux") == *' .BTF '* ]] || die ".BTF is gone from vmlinux"
  chmod 0644 "$to"/*
}

if [[ ! -f $result/vmlinux || $config_only == yes ]]; then
  take_lock "$cache_dir/$arch/kernel.lock"
fi
if [[ $config_only == yes ]]; then
  work=$(mktemp -d "$cache_dir/$arch/config.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  configure "$work"
  mkdir -p "${out:-$result}"
  cp "$work/objects/.config" "${out:-$result}/config"
  echo "${out:-$result}/config"
  exit 0
fi
if [[ ! -f $result/vmlinux ]]; then
  # One path for every build, so that ccache sees the same command lines.
  work=$cache_dir/$arch/kernel-build
  rm -rf "$work"
  started=$SECONDS
  configure "$work"
  compile "$work"
  rm -rf "$result.new"
  harvest "$work" "$result.new"
  rm -rf "$result"
  mv "$result.new" "$result"
  rm -rf "$work"
  say "built in $((SECONDS - started)) s"
fi
if [[ -n $out ]]; then
  mkdir -p "$out"
  cp --reflink=auto "$result"/{vmlinux,config,System.map} "$out/"
  result=$out
fi
echo "$result/vmlinux"
