#!/bin/bash
# tests/conformance/kubernetes.sh [PYTEST-OPTION…] — tests/e2e/test_kubernetes*.py: etcd and the control plane on this host's loopback, kubelet,
# kube-proxy and containerd in a lab machine, and the DaemonSet's image for it. After a release build with wyvern-cri. Exit code 3: the programs cannot be had here.
# RESULT (a file): pytest's report in JUnit's format.
set -euo pipefail
cd "$(dirname "$0")/../.."
port=16443
if [ "${1:-}" != inside ]; then
  exec tests/conformance/control_plane.py $port -- tests/conformance/kubernetes.sh inside "$@"
fi
shift
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
tests/conformance/installer_image.py "$out/wyvern-installer.tar"
mkdir "$out/said"
# A machine that fails (the emulator, now and then) is started again.
for attempt in 1 2 3; do
  status=0
  tests/lab/lab run --build build/release --cpus 1 --memory 4096 --timeout 2400 --share-out "$out/said" --forward "$KUBELET_PORT" \
    --add build/release/bin/wyvern-cri --add "$WYVERN_KUBERNETES" --add "$WYVERN_LAB_KUBECONFIG" --add "$out/wyvern-installer.tar" -- \
    sh -c 'cd /opt/wyvern/tests/e2e && exec python3 -m pytest -q -p no:cacheprovider --junitxml=/out/e2e.xml test_kubernetes.py test_kubernetes_install.py "$@"' sh "$@" || status=$?
  [ $status = 125 ] && [ $attempt != 3 ] || break
done
[ -z "${RESULT:-}" ] || [ ! -e "$out/said/e2e.xml" ] || cp "$out/said/e2e.xml" "$RESULT"
exit $status
