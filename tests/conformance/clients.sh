#!/bin/bash
# tests/conformance/clients.sh NAME… — builds clients that Debian has not, from their Go modules at pinned versions, into
# $WYVERN_CACHE/clients/<name>-<version>/ and prints each directory. NAME: nerdctl, docker-compose, dockerd (with docker-proxy), containerd (with
# its ctr and shim of runc), etcd, kubelet (with kubectl, kube-proxy and the control plane), client.test (of containerd's integration/client), integration.test (of its
# integration: CRI), critest (of cri-tools; where its module is to be had).
# Exit 3 and a reason on stderr where Go or its module proxy is not at hand: a suite then skips with that reason.
set -euo pipefail

nerdctl=v2.0.5
compose=v2.38.2
containerd=v2.1.4
dockerd=v28.3.0+incompatible  # the first generation that adds interfaces between Create and Start
etcd=v3.5.21
# Of the modules beside it: the same with v0 (k8s.io/api v0.33.1).
kubernetes=v1.33.1
client_test=v2.1.4       # the first version whose main module has it
integration_test=v1.7.27  # of the lab's containerd
critest=v1.33.0

cache=${WYVERN_CACHE:-${HOME:-/root}/.cache/wyvern}/clients
command -v go >/dev/null || { echo "clients.sh: no Go on this host" >&2; exit 3; }
[ $# -gt 0 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }

# build NAME MODULE VERSION PACKAGES COMMAND…: `go COMMAND` makes the programs of the module's PACKAGES, of which one is NAME, in $out.
build() {
  local name=$1 module=$2 version=$3 answer source work packages
  read -ra packages <<<"$4"
  shift 4
  out=$cache/$name-$version
  if [ ! -e "$out/$name" ]; then
    mkdir -p "$cache"
    # Not every proxy has the checksum database: what the module itself needs is checked by its go.sum, and it by its pinned version's tag.
    answer=$(cd / && GOFLAGS=-mod=mod GONOSUMDB=$module go mod download -json "$module@$version" 2>&1) || true
    source=$(sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p' <<<"$answer")
    if [ -z "$source" ]; then
      # The proxy's name says nothing to who reads the reason.
      answer=$(sed -E "s#\\\\\"#'#g" <<<"$answer" | sed -n -E 's#^\t"Error": "([^"]*)".*#\1#p' | sed -E -e 's#\\n.*##' -e 's#.*https?://[^ ]*: ##')
      echo "clients.sh: $module@$version cannot be had from the module proxy here${answer:+: $answer}" >&2
      exit 3
    fi
    work=$(mktemp -d "$cache/$name.XXXXXX")
    cp -r "$source" "$work/source"
    chmod -R u+w "$work"
    [ -z "${change:-}" ] || (cd "$work/source" && $change)
    mkdir "$work/out"
    # Modules that lie beside this one in its repository are published, too, and only so to be had.
    rm -rf "$work/source"/{vendor,staging,go.work,go.work.sum}
    sed -i -E -e '/=> \.\.?\//d' -e "s#^(\s*k8s\.io/[a-z-]+) v0\.0\.0( .*)?\$#\1 v0${kubernetes#v1}#" "$work/source/go.mod"
    if ! (cd "$work/source" && export GOFLAGS=-mod=mod CGO_ENABLED=0 GONOSUMDB=k8s.io,go.etcd.io && go "$@" -trimpath -o "$work/out/" -ldflags '-s -w' "${packages[@]}") >"$work/log" 2>&1; then
      tail -20 "$work/log" >&2
      rm -rf "$work"
      echo "clients.sh: $name does not build" >&2
      exit 1
    fi
    # The program of a module's root has the name of its directory.
    [ -e "$work/out/$name" ] || mv "$work/out"/* "$work/out/$name"
    rm -rf "$out"
    mv "$work/out" "$out"
    rm -rf "$work"
  fi
  echo "$out"
}

# What is changed in a module's sources before they are built; in their directory.

# Tests of containerd's get their images from a registry on the loopback (tests/e2e/harness/images.py): client.test reads the names before its flags.
loopback_images() {
  sed -i -E 's#"(ghcr\.io/containerd|registry\.k8s\.io(/e2e-test-images)?)/#"localhost:5000/#' integration/images/image_list.go
}

# docker's module file has another name, so that the module is one of version 0.
docker_sources() {
  mv vendor.mod go.mod
  mv vendor.sum go.sum
}

# And an emulated machine's containerd is not up in the 2 or 4 s that they wait for it.
client_test_sources() {
  loopback_images
  sed -i -E 's/(waitCtx, [a-zA-Z]+ :?= context\.WithTimeout\([a-zA-Z.()]+, )[0-9]+\*time\.Second/\160*time.Second/' integration/client/*.go
}

for name in "$@"; do
  case $name in
    nerdctl) build nerdctl github.com/containerd/nerdctl/v2 $nerdctl ./cmd/nerdctl build ;;
    docker-compose) build docker-compose github.com/docker/compose/v2 $compose ./cmd build ;;
    dockerd)
      change=docker_sources build dockerd github.com/docker/docker $dockerd './cmd/dockerd ./cmd/docker-proxy' build -tags no_btrfs ;;
    # btrfs and device-mapper's snapshotter by libdm want cgo; the programs are to run in any machine.
    containerd) build containerd github.com/containerd/containerd/v2 $containerd './cmd/containerd ./cmd/ctr ./cmd/containerd-shim-runc-v2' build -tags no_btrfs ;;
    etcd) build etcd go.etcd.io/etcd/server/v3 $etcd . build ;;
    kubelet)
      build kubelet k8s.io/kubernetes $kubernetes \
        "$(printf './cmd/%s ' kubelet kubectl kube-proxy kube-apiserver kube-controller-manager kube-scheduler)" build
      ;;
    client.test)
      change=client_test_sources build client.test github.com/containerd/containerd/v2 $client_test ./integration/client test -c ;;
    integration.test)
      change=loopback_images build integration.test github.com/containerd/containerd $integration_test ./integration test -c ;;
    critest) build critest sigs.k8s.io/cri-tools $critest ./cmd/critest test -c ;;
    *) echo "clients.sh: unknown client '$name'" >&2; exit 2 ;;
  esac
done
