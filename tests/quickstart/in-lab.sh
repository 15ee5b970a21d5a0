#!/bin/bash
# Runs one container through containerd and writes $OUT/summary.txt and $OUT/timeline.json; what quickstart.sh shows at the end.
set -uo pipefail
OUT=${OUT:-/out}
image=docker.io/library/busybox:latest
id=quickstart-$$

text=$(ctr run --rm --runtime io.containerd.wyvern.v2 "$image" "$id" sh -c 'echo "hello from $(uname -s)"; uname -r')
code=$?
[ $code = 0 ] || { echo "ctr run failed with exit code $code"; journalctl -u containerd --no-pager -n 40; exit 1; }
ctr run --rm --runtime io.containerd.wyvern.v2 "$image" "$id-code" sh -c 'exit 7'
forwarded=$?
{
  echo "container printed:     $(echo "$text" | sed -n 1p)"
  echo "guest kernel:          $(echo "$text" | sed -n 2p)"
  echo "host (lab) kernel:     $(uname -r)"
  echo "exit code asked for 7: $forwarded"
} >"$OUT/summary.txt"
ctr run -d --runtime io.containerd.wyvern.v2 "$image" "$id-start" sleep 60 && wyvern timeline "$id-start" >"$OUT/timeline.json"
code=$?
ctr task rm -f "$id-start" && ctr container rm "$id-start"
cat "$OUT/summary.txt"
[ $code = 0 ] && [ $forwarded = 7 ]
