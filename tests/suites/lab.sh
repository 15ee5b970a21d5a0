#!/bin/bash
# The lab: builds the release, the guest and the lab's images, then runs tests/e2e in lab machines, and tests/interop on this one.
# WYVERN_LAB=smoke (the suite of that name): one machine, a few tests of each kind.
set -uo pipefail
smoke=$([ "${WYVERN_LAB:-}" = smoke ] && echo yes)
./deploy/packages.sh lab guest $([ "$smoke" ] || echo guest-test interop) || exit 1
cmake --preset release && ninja -C build/release && { [ "$smoke" ] || ninja -C build/release wyvern-bench wyvern-cri; } || exit 1
[ "$smoke" ] || { cmake --preset unit && ninja -C build/unit vhost_user_fs_test vhost_user_serve vhost_user_peers_test machine_test; } || exit 1
kernel=$(deploy/guest/build-kernel.sh | tail -1) || exit 1
deploy/guest/build-image.sh --agent build/release/bin/wyvern-agent || exit 1
versions=(1.7 1.6)
[ -z "$smoke" ] || versions=(1.7)
for containerd in "${versions[@]}"; do
  tests/lab/lab images --containerd "$containerd" --cpus 1 --memory 3072 || exit 1
done
nerdctl=
[ "$smoke" ] || nerdctl=$(tests/conformance/clients.sh nerdctl)/nerdctl || nerdctl=
later= # a containerd, which others are upgraded to
[ "$smoke" ] || later=$(tests/conformance/clients.sh containerd) || later=
# containerd's own tests (test_upstream.py), where they can be built.
upstream=
[ "$smoke" ] || upstream=$(tests/conformance/clients.sh client.test integration.test) || upstream=
out=$WYVERN_LOGS/lab
mkdir -p "$out"
# Machines of containerd 2.1 need one that Debian 13 has not.
[ "$smoke" ] || built=$(tests/conformance/clients.sh containerd 2>&1 >/dev/null) || {
  echo "SKIP lab/2.1: $(tail -1 <<<"$built")" >>"$WYVERN_RESULTS"
  export without=2.1
}

# One job per line, longest first, two at a time. Of a machine: containerd's version, processors, then what pytest gets. Two machines of two
# processors wait for each other's interrupts (a container takes 6.8 s, and 4.1 s with one each), and under load of files a machine of two
# stood still for good, its processors idle.
plan() {
  if [ -n "$smoke" ]; then
    echo '1.7 1 test_quickstart.py test_ctr_run.py test_kill9.py -k quickstart+or+kernel_is_the_guests+or+exit_code+or+stdin_small+or+kill_9[vmm]'
    return
  fi
  [ "$WYVERN_LONG" != 1 ] || cat <<'LONG'
kubernetes
2.1 1 test_ctr_run.py test_kill9.py -k kernel_is_the_guests+or+exit_code[255]+or+stdin_small+or+kill_9[vmm]+or+survives
LONG
  cat <<'PLAN'
1.7 1 test_devices_blk.py test_devices_net.py test_devices_memory.py test_devices_ports.py test_pmem_images.py
interop
1.7 1 test_ctr_run.py test_quickstart.py
1.7 1 test_exec.py test_task_api.py test_tty.py
1.7 1 test_scenarios.py
1.7 1 test_bad_input.py test_rootfs.py test_confinement.py test_virtio_blk.py test_fs_differential.py test_fs_escape.py test_dax.py
1.7 1 test_hotplug_soak.py
1.7 1 test_block_roots.py test_devices_vcpus.py test_kvm_units.py
1.7 1 test_memory.py test_limits.py test_volumes.py
1.7 1 test_resize.py test_observe.py
1.7 1 test_debian_image.py
1.7 1 test_wyvern_cli.py test_guest_import.py test_network.py test_hooks.py
1.7 1 test_docker.py test_nerdctl.py
1.7 1 test_pods.py
1.7 1 test_kill9.py test_guide.py
2.1 1 test_sandbox_api.py test_pods.py -k test_sandbox_api+or+43+and+not+runc+or+48+and+sandbox
1.7 1 test_upgrade.py test_install.py
1.7 1 test_crowd.py test_random_kills.py
1.7 1 test_user_network.py test_host_sockets.py
1.7 1 test_upstream.py
1.6 1 test_ctr_run.py test_kill9.py -k kernel_is_the_guests+or+exit_code[255]+or+stdin_small+or+kill_9[vmm]+or+survives
1.6 1 test_block_roots.py -k devmapper
PLAN
}

# A machine that ends by itself or stands still (the emulator is at fault now and then: the machine's kernel panics, or none of its timers comes any
# more) is started again, once, and says so.
machine() {
  local name words=()
  read -ra words <<<"$1"
  name=${words[0]}-${words[2]%.py}
  local arguments=("${words[@]:2}")
  arguments=("${arguments[@]//+/ }")
  [ "${WYVERN_LONG:-0}" = 1 ] && arguments+=(--long)
  # Its first sizes, of 1 GiB, need guest memory and two page caches of that.
  local memory=3072
  [ "${WYVERN_LONG:-0}" = 1 ] && [[ $name == *-test_memory ]] && memory=8192
  # A hundred pods at once.
  [ "${WYVERN_LONG:-0}" = 1 ] && [[ $name == *-test_crowd ]] && memory=12288
  local extra=()
  [ -x build/release/bin/wyvern-bench ] && extra=(--add build/release/bin/wyvern-bench)
  [ -x build/release/bin/wyvern-cri ] && extra+=(--add build/release/bin/wyvern-cri)
  [ -x build/unit/sandbox-vmm/machine/machine_test ] && extra+=(--add build/unit/sandbox-vmm/machine/machine_test)
  [ -x "$nerdctl" ] && extra+=(--add "$nerdctl")
  [ -d "$later" ] && [[ $1 == *test_upgrade* ]] && extra+=(--add "$later")
  [[ $name != *-test_upstream ]] || for directory in $upstream; do extra+=(--add "$directory/"*.test); done
  for attempt in 1 2; do
    rm -rf "${out:?}/$name"
    tests/lab/lab run --build build/release --share-out "$out/$name" --console "$out/$name.console" --cpus "${words[1]}" --memory "$memory" \
      --containerd "${words[0]}" --timeout $((WYVERN_LONG ? 9000 : 900)) \
      --add build/release/sandbox-vmm/machine/wyvern-boot-test --add build/release/bin/wyvern-fsdiff --add build/release/bin/wyvern-escape \
      "${extra[@]}" -- \
      sh -c 'cd /opt/wyvern/tests/e2e && exec python3 -m pytest -q -p no:cacheprovider --junitxml=/out/e2e.xml "$@"' sh "${arguments[@]}" \
      >"$out/$name.log" 2>&1
    [ $? = 125 ] && [ $attempt = 1 ] || break
    echo "$name: the machine failed and was started again: $(grep -a '^lab: ' "$out/$name.log" | tail -1)"
    tail -5 "$out/$name.console"
  done
  tail -60 "$out/$name.log"
  echo "LEFT lab/$name: $(sed -n 's/^\([0-9]*\) left to --long$/\1/p' "$out/$name.log" | tail -1)" >>"$WYVERN_RESULTS"
  python3 tests/tools/junit_results.py "lab/$name" "$out/$name/e2e.xml" >>"$WYVERN_RESULTS"
}

# Other programs at the other end of our vhost-user: emulated guests on this machine, no lab machine.
interop() {
  WYVERN_TEST_KERNEL=$kernel /usr/bin/python3 -m pytest -q -p no:cacheprovider --junitxml="$out/interop.xml" \
    $([ "$WYVERN_LONG" = 1 ] && echo --long) tests/interop >"$out/interop.log" 2>&1
  tail -60 "$out/interop.log"
  echo "LEFT interop: $(sed -n 's/^\([0-9]*\) left to --long$/\1/p' "$out/interop.log" | tail -1)" >>"$WYVERN_RESULTS"
  python3 tests/tools/junit_results.py interop "$out/interop.xml" >>"$WYVERN_RESULTS"
}

# A cluster's control plane on this machine, its node in a lab machine: test_kubernetes.py (its first start builds both: half an hour).
kubernetes() {
  RESULT=$out/kubernetes.xml tests/conformance/kubernetes.sh >"$out/kubernetes.log" 2>&1
  local code=$?
  tail -60 "$out/kubernetes.log"
  if [ $code = 3 ]; then
    echo "SKIP kubernetes: $(tail -1 "$out/kubernetes.log")" >>"$WYVERN_RESULTS"
  else
    python3 tests/tools/junit_results.py kubernetes "$out/kubernetes.xml" >>"$WYVERN_RESULTS"
  fi
}

job() {
  case "$1" in
    interop) interop ;;
    kubernetes) kubernetes ;;
    *) machine "$1" ;;
  esac
}
export -f machine interop kubernetes job
export out kernel nerdctl later upstream
plan | grep -v "^${without:-none} " | tr '\n' '\0' | xargs -0 -P2 -I{} bash -c 'job "$1"' job {}
[ -z "$smoke" ] || exit 0

# What the guest's kernel and image promise, and that they are the same bytes twice: QEMU without KVM, so not beside the machines.
long=()
[ "${WYVERN_LONG:-0}" = 1 ] && long=(--long)
deploy/guest/guest_test.sh --kernel "$kernel" --agent build/release/bin/wyvern-agent "${long[@]}" >"$out/guest.log" 2>&1
code=$?
tail -20 "$out/guest.log"
sed -n 's/^\(PASS\|FAIL\|SKIP\) /\1 guest\//p' "$out/guest.log" >>"$WYVERN_RESULTS"
[ $code = 0 ] || grep -q '^FAIL ' "$out/guest.log" || echo "FAIL guest: exit code $code, see guest.log" >>"$WYVERN_RESULTS"
