#!/bin/bash
# container.sh IMAGE.tar — runs containers of this OCI archive through containerd, in a namespace of its own; writes $OUT/summary.txt and
# $OUT/timeline.json, which deploy/quickstart.sh shows at its end. On the host and in the lab.
set -uo pipefail
OUT=${OUT:-/out}
export CONTAINERD_NAMESPACE=wyvern-quickstart
image=docker.io/library/busybox:latest
runtime=(--runtime io.containerd.wyvern.v2)
id=quickstart-$$

clean() {
  ctr task rm -f "$id"
  ctr container rm "$id"
  ctr images rm --sync "$image"
  ctr namespaces rm "$CONTAINERD_NAMESPACE"
  # What containerd keeps for a namespace that is gone.
  rmdir /run/containerd/io.containerd.runtime.v2.task/"$CONTAINERD_NAMESPACE" /var/lib/containerd/io.containerd.runtime.v2.task/"$CONTAINERD_NAMESPACE"
} >/dev/null 2>&1
trap clean EXIT

fail() { echo "$*"; journalctl -u containerd --no-pager -n 40; exit 1; }

ctr images import "${1:?container.sh IMAGE.tar}" >/dev/null || fail "the image cannot be imported"
text=$(ctr run --rm "${runtime[@]}" "$image" "$id" sh -c 'echo "hello from $(uname -s)"; uname -r') || fail "ctr run failed with exit code $?"
ctr run --rm "${runtime[@]}" "$image" "$id" sh -c 'exit 7'
forwarded=$?
ctr run -d "${runtime[@]}" "$image" "$id" sleep 60 || fail "ctr run -d failed with exit code $?"
wyvern timeline "$id" >"$OUT/timeline.json" || fail "the timeline cannot be read"
{
  echo "container printed:     $(echo "$text" | sed -n 1p)"
  echo "guest kernel:          $(echo "$text" | sed -n 2p)"
  echo "host's kernel:         $(uname -r)"
  echo "exit code asked for 7: $forwarded"
} | tee "$OUT/summary.txt"
[ $forwarded = 7 ]
