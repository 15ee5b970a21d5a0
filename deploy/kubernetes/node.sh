#!/bin/bash
# deploy/kubernetes/node.sh install|uninstall — on one node: runs the verb in the node's root at /host, tells the node's label, and goes on
# looking once an hour, so that versions that nobody uses any more go. Label io.wyvern/ready: true; restart-containerd (somebody has to); false.
#   NODE_NAME              the node
#   RESTART_CONTAINERD     yes: restart it when it has to read its configuration again
#   WYVERN, HOST, SECRETS, API, ONCE   other places, and an end after the first look, for tests
set -euo pipefail
verb=${1:-}
[[ $verb = install || $verb = uninstall ]] || { echo "node.sh: install or uninstall?" >&2; exit 2; }
wyvern=${WYVERN:-/opt/wyvern/bin/wyvern}
host=${HOST:-/host}
secrets=${SECRETS:-/var/run/secrets/kubernetes.io/serviceaccount}
# By its address, as clients of Kubernetes do in a pod: a node can be labelled before the cluster's DNS is up.
address=${KUBERNETES_SERVICE_HOST:-kubernetes.default.svc}
[[ $address != *:* ]] || address="[$address]"
api=${API:-https://$address:${KUBERNETES_SERVICE_PORT:-443}}
: "${NODE_NAME:?NODE_NAME is not set}"
# There while containerd has not been restarted; it outlives this pod.
pending=$host/var/lib/wyvern/restart-containerd

label() {
  curl --silent --show-error --fail --output /dev/null --max-time 20 --cacert "$secrets/ca.crt" \
    --header @- --header 'Content-Type: application/strategic-merge-patch+json' --request PATCH \
    --data "{\"metadata\":{\"labels\":{\"io.wyvern/ready\":$1}}}" "$api/api/v1/nodes/$NODE_NAME" \
    <<<"Authorization: Bearer $(cat "$secrets/token")"
}

# When a file was made or written, in seconds; 0: it is not there.
changed() { stat -c %Y "$1" 2>/dev/null || echo 0; }

install_once() {
  local said
  said=$("$wyvern" install --root "$host" 2>&1) || { echo "$said"; label '"false"'; return 1; }
  echo "$said"
  [[ $said != *'restart containerd, so that'* ]] || : >"$pending"
  if [ -e "$pending" ] && [ "${RESTART_CONTAINERD:-no}" = yes ]; then
    chroot "$host" systemctl restart containerd || return 1
  elif [ -e "$pending" ] && [ "$(changed "$host/run/containerd/containerd.sock")" -le "$(changed "$pending")" ]; then
    # Nobody has started containerd since.
    label '"restart-containerd"'
    return
  fi
  rm -f "$pending"
  label '"true"'
}

uninstall_once() {
  local said
  # Before anything is taken away, so that no pod comes in between.
  label null || return 1
  rm -f "$pending"
  if ! said=$("$wyvern" uninstall --root "$host" 2>&1); then
    echo "$said"
    # An earlier look did it.
    [[ $said == *'has put nothing here'* ]]
    return
  fi
  echo "$said"
  [[ $said != *'restart containerd, so that'* || ${RESTART_CONTAINERD:-no} != yes ]] || chroot "$host" systemctl restart containerd
}

trap 'exit 0' TERM INT
while true; do
  # Within a minute again after a failure: the node, or the API, may be on its way up.
  pause=3600
  "${verb}_once" || pause=60
  [ -z "${ONCE:-}" ] || { [ $pause = 3600 ]; exit; }
  [ ! -e "$pending" ] || pause=60
  sleep $pause &
  wait $!
done
