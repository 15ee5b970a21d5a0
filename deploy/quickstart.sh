#!/bin/bash
# deploy/quickstart.sh [--lab|--host] [--timeline FILE.svg] — from a fresh Debian 12 to a container in its own microVM, as root.
# Installs packages, builds, makes the guest's kernel and image, then runs a container through containerd: on this host if its KVM runs
# guests, otherwise in the lab (a machine with emulated virtualization), and says which and why.
#   --lab                 in the lab, even if this host's KVM works
#   --host                on this host, even if its KVM does not seem to work
#   --timeline FILE.svg   also draws the timeline of the start into FILE
set -euo pipefail
from=$PWD
cd "$(dirname "$0")/.."

usage() { sed -n '2,7s/^# //p' deploy/quickstart.sh; }
where=auto
timeline=
while [ $# -gt 0 ]; do
  case "$1" in
    --lab) where=lab; shift ;;
    --host) where=host; shift ;;
    --timeline)
      [ -n "${2:-}" ] || { echo "quickstart.sh: --timeline needs a file" >&2; exit 2; }
      timeline=$2
      [[ $timeline == /* ]] || timeline=$from/$timeline
      # Now, not after the minutes that all else takes.
      [ -d "$(dirname "$timeline")" ] || { echo "quickstart.sh: --timeline: no directory $(dirname "$timeline")" >&2; exit 2; }
      shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "quickstart.sh: unknown option '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
[ "$(id -u)" = 0 ] || { echo "quickstart.sh: run it as root (it installs packages and starts containers)" >&2; exit 1; }

export WYVERN_CACHE=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}
export CCACHE_DIR=${CCACHE_DIR:-$WYVERN_CACHE/ccache}
# Objects are found again from another clone of the same sources.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
logs=$PWD/build/quickstart-logs
mkdir -p "$logs" "$CCACHE_DIR"
begin=$SECONDS
# Seconds for the whole on two cores: from nothing, and again with the same sources.
bar_first=1200
bar_again=60
done_file=$logs/done
sources=$(git rev-parse HEAD 2>/dev/null; git diff HEAD 2>/dev/null | sha256sum) || true
number=0
steps=6

# step TITLE COMMAND… — runs it with its output in a log; shows the title, a dot every 10 s, and the time.
step() {
  local title=$1 log began=$SECONDS
  shift
  number=$((number + 1))
  log=$logs/$number.log
  printf '[%d/%d] %s ' "$number" "$steps" "$title"
  "$@" >"$log" 2>&1 &
  local pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    [ $(((SECONDS - began) % 10)) = 9 ] && { printf '.'; sleep 1; }
  done
  if ! wait "$pid"; then
    printf ' failed after %d s\n' $((SECONDS - began))
    tail -25 "$log"
    echo "quickstart.sh: '$title' failed; the whole log is $log" >&2
    exit 1
  fi
  printf ' %d s\n' $((SECONDS - began))
}

build() {
  cmake --preset release
  ninja -C build/release
}

guest() {
  deploy/guest/build-kernel.sh
  deploy/guest/build-image.sh --agent build/release/bin/wyvern-agent
}

install_here() {
  ./deploy/packages.sh host
  ./deploy/install.sh
  tests/lab/lab images --oci
  ctr version >/dev/null 2>&1 || systemctl start containerd
}

out=$logs/out
rm -rf "$out"
mkdir -p "$out"
step "packages" ./deploy/packages.sh build guest lab
step "build Wyvern (release, static)" build
step "guest kernel and image" guest

verdict=$(build/release/bin/wyvern check --kvm-only 2>&1) && usable=yes || usable=no
if [ $where = auto ]; then
  [ $usable = yes ] && where=host || where=lab
fi
echo "      KVM here: $verdict"
if [ $where = lab ]; then
  echo "      so the container runs in the lab: a machine whose virtualization QEMU emulates, with the real KVM inside"
  step "lab images" tests/lab/lab images
  step "container in a microVM, through containerd" tests/lab/lab run --build build/release --share-out "$out" -- \
    /opt/wyvern/tests/quickstart/container.sh /opt/images/busybox.tar
else
  echo "      so the container runs on this host"
  step "install, containerd running" install_here
  step "container in a microVM, through containerd" env OUT="$out" tests/quickstart/container.sh \
    "$(tests/lab/lab images --oci)/busybox.tar"
fi
step "timeline" python3 tests/quickstart/timeline.py "$out/timeline.json" ${timeline:+--svg "$timeline"}
echo
cat "$out/summary.txt"
cat "$logs/$number.log"
[ -z "$timeline" ] || echo "timeline: $timeline"

# The same sources, in the same place, were run here before.
bar=$bar_first which="from nothing"
[ "$(cat "$done_file" 2>/dev/null)" != "$where $sources" ] || bar=$bar_again which="again with the same sources"
echo "$where $sources" >"$done_file"
took=$((SECONDS - begin))
echo
echo "done in $took s; $which it should take at most $bar s$([ $took -le $bar ] || echo ": TOO LONG")"
