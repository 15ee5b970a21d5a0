// sandbox/vcpu_pins.h — each vCPU on a CPU of its own, where containers were given as many CPUs as the machine has vCPUs (sandbox.pin_vcpus).
// Source:  sched_setaffinity(2), which takes threads of other processes. CPUs are numbers of the host, vCPU n gets the n-th of them.
// Shape:   with fewer or more CPUs than vCPUs, threads that were bound are let go again: the cgroup's set still holds them.
// Trust:   threads are what Machine::Size has checked to be the VMM's.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "hypervisor/machine.h"

namespace wyvern::runtime {

class VcpuPins {
 public:
  // `cpus`: ascending, below 8192, as ParseCpuList gives them; none: the containers may use all. Errors: the thread or the CPU is not there (any
  // more); call it again with what is to hold.
  Result<> Apply(const std::vector<VcpuThread>& vcpus, const std::vector<uint32_t>& cpus);

  bool pinned() const { return pinned_; }

 private:
  bool pinned_ = false;
};

}  // namespace wyvern::runtime
