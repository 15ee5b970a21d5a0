#!/bin/bash
# Unit tests of what has threads of its own, under ThreadSanitizer: the sandbox's memory, rings, transports and devices. Its objects are
# those of no other suite: not in "all" but with --long.
set -uo pipefail
. tests/suites/ctest.sh
export TSAN_OPTIONS=second_deadlock_stack=1:suppressions=$PWD/tests/suites/tsan.supp
# Its driver's chains lie over each other and over the ring: the device's accesses race as the driver wants them to.
export GTEST_FILTER=-Devices/HostileNeighbourTest.*
run_programs tsan base_test mem_test bus_test virtio_test transport_test vhost_user_test rate_limit_test fs_test blk_test net_test vsock_test \
  pmem_test rng_test balloon_test virtio_mem_test console_test vhost_user_net_test device_lifecycle_test
