#!/bin/bash
# The lab: builds the release, the guest and the lab's images, then runs tests/e2e in lab machines. Three suites, by WYVERN_LAB:
# smoke (one machine, a few tests of each kind: CI), share (default, suite lab: what fits into the minutes of tests/run.sh), and
# all (suite e2e: every test, with containerd 1.6, 1.7 and 2.1, docker, nerdctl and others' tests, and tests/interop on this machine).
set -uo pipefail
lab=${WYVERN_LAB:-share}
all=$([ "$lab" = all ] && echo yes)
./deploy/packages.sh lab guest $([ "$lab" = smoke ] || echo guest-test) ${all:+interop} || exit 1
cmake --preset release && ninja -C build/release && { [ "$lab" = smoke ] || ninja -C build/release wyvern-bench wyvern-cri; } || exit 1
[ -z "$all" ] || { cmake --preset unit && ninja -C build/unit vhost_user_fs_test vhost_user_serve vhost_user_peers_test machine_test; } || exit 1
kernel=$(deploy/guest/build-kernel.sh | tail -1) || exit 1
deploy/guest/build-image.sh --agent build/release/bin/wyvern-agent || exit 1
for containerd in 1.7 ${all:+1.6}; do
  tests/lab/lab images --containerd "$containerd" --cpus 1 --memory 3072 || exit 1
done
# Clients that Debian has not, where they can be built.
nerdctl= compose= docker28= later= upstream= without=
if [ -n "$all" ]; then
  nerdctl=$(tests/conformance/clients.sh nerdctl)/nerdctl || nerdctl=
  # docker compose and a later docker, whose tests are left to --long.
  if [ "${WYVERN_LONG:-0}" = 1 ]; then
    compose=$(tests/conformance/clients.sh docker-compose)/docker-compose || compose=
    docker28=$(tests/conformance/clients.sh dockerd) || docker28=
  fi
  # A containerd, which others are upgraded to, and which machines of containerd 2.1 have.
  later=$(tests/conformance/clients.sh containerd 2>"$WYVERN_LOGS/containerd.log") || {
    later=
    echo "SKIP e2e/2.1: $(tail -1 "$WYVERN_LOGS/containerd.log")" >>"$WYVERN_RESULTS"
    without=2.1
  }
  # containerd's own tests (test_upstream.py).
  upstream=$(tests/conformance/clients.sh client.test integration.test) || upstream=
fi
# critest has no run of its own yet: nowhere could it be built so far.
if [ "$lab" != smoke ]; then
  critest=$(tests/conformance/clients.sh critest 2>&1 >/dev/null) && critest="its module is to be had here, but no suite runs it yet"
  echo "SKIP e2e/critest: $(tail -1 <<<"$critest")" >>"$WYVERN_RESULTS"
fi
out=$WYVERN_LOGS/lab
mkdir -p "$out"

# One job per line, longest first, two at a time. Of a machine: containerd's version, processors, then what pytest gets. Two machines of two
# processors wait for each other's interrupts (a container takes 6.8 s, and 4.1 s with one each), and under load of files a machine of two
# stood still for good, its processors idle.
plan() {
  if [ "$lab" = smoke ]; then
    echo '1.7 1 test_quickstart.py test_ctr_run.py test_kill9.py -k quickstart+or+kernel_is_the_guests+or+exit_code+or+stdin_small+or+kill_9[vmm]'
    return
  fi
  if [ "$lab" = share ]; then
    cat <<'SHARE'
1.7 1 test_ctr_run.py test_quickstart.py
1.7 1 test_kill9.py test_hooks.py test_confinement.py
1.7 1 test_exec.py test_host_sockets.py
1.7 1 test_pods.py -k 43+or+44+or+48+or+50
SHARE
    return
  fi
  [ "$WYVERN_LONG" != 1 ] || cat <<'LONG'
kubernetes
debian
1.7 1 test_docker_inside.py
2.1 1 test_ctr_run.py test_kill9.py -k kernel_is_the_guests+or+exit_code[255]+or+stdin_small+or+kill_9[vmm]+or+survives
LONG
  cat <<'PLAN'
1.7 1 test_devices_blk.py test_devices_net.py test_devices_memory.py test_devices_ports.py test_pmem_images.py
interop
1.7 1 test_ctr_run.py test_quickstart.py
1.7 1 test_exec.py test_task_api.py test_tty.py test_agent_policy.py
1.7 1 test_scenarios.py
1.7 1 test_bad_input.py test_rootfs.py test_confinement.py test_virtio_blk.py test_fs_differential.py test_fs_escape.py test_dax.py
1.7 1 test_hotplug_soak.py
1.7 1 test_block_roots.py test_devices_vcpus.py test_kvm_units.py
1.7 1 test_memory.py test_limits.py test_volumes.py
1.7 1 test_resize.py test_observe.py
1.7 1 test_debian_image.py
1.7 1 test_wyvern_cli.py test_guest_import.py test_network.py test_hooks.py
1.7 1 test_docker.py test_nerdctl.py test_compose.py
1.7 1 test_pods.py
1.7 1 test_kill9.py test_guide.py
2.1 1 test_sandbox_api.py test_pods.py test_user_namespaces.py -k test_sandbox_api+or+43+and+not+runc+or+48+and+sandbox+or+id_mapped+and+api
1.7 1 test_upgrade.py test_install.py
1.7 1 test_crowd.py test_random_kills.py
1.7 1 test_user_network.py test_host_sockets.py test_pod_network.py
1.7 1 test_user_namespaces.py test_direct_volumes.py
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
  [ -x "$compose" ] && [[ $1 == *test_compose* ]] && extra+=(--add "$compose")
  [ -n "$docker28" ] && [[ $1 == *test_docker.py* ]] && extra+=(--add "$docker28/dockerd" --add "$docker28/docker-proxy")
  [ -n "$later" ] && [[ $1 == *test_upgrade* ]] && extra+=(--add "$later")
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

# by_script NAME SCRIPT: what starts its lab machine itself.
by_script() {
  RESULT=$out/$1.xml "$2" >"$out/$1.log" 2>&1
  local code=$?
  tail -60 "$out/$1.log"
  if [ $code = 3 ]; then
    echo "SKIP $1: $(tail -1 "$out/$1.log")" >>"$WYVERN_RESULTS"
  elif [ -e "$out/$1.xml" ]; then
    python3 tests/tools/junit_results.py "$1" "$out/$1.xml" >>"$WYVERN_RESULTS"
  else
    echo "FAIL $1: $2 ended with $code before its tests" >>"$WYVERN_RESULTS"
  fi
}

job() {
  case "$1" in
    interop) interop ;;
    # test_kubernetes.py and test_kubernetes_install.py: a cluster's control plane on this machine, its node in a lab machine (its first start
    # builds both: half an hour).
    kubernetes) by_script kubernetes tests/conformance/kubernetes.sh ;;
    # test_debian_packages.py
    debian) by_script debian tests/deploy/debian_packages.sh ;;
    *) machine "$1" ;;
  esac
}
export -f machine interop by_script job
export out kernel nerdctl compose docker28 later upstream
plan | grep -v "^${without:-none} " | tr '\n' '\0' | xargs -0 -P2 -I{} bash -c 'job "$1"' job {}
[ "$lab" != smoke ] || exit 0

# What the guest's kernel and image promise, and that they are the same bytes twice: QEMU without KVM, so not beside the machines.
long=()
[ "${WYVERN_LONG:-0}" = 1 ] && [ -n "$all" ] && long=(--long)
deploy/guest/guest_test.sh --kernel "$kernel" --agent build/release/bin/wyvern-agent "${long[@]}" >"$out/guest.log" 2>&1
code=$?
tail -20 "$out/guest.log"
sed -n 's/^\(PASS\|FAIL\|SKIP\) /\1 guest\//p' "$out/guest.log" >>"$WYVERN_RESULTS"
[ $code = 0 ] || grep -q '^FAIL ' "$out/guest.log" || echo "FAIL guest: exit code $code, see guest.log" >>"$WYVERN_RESULTS"
