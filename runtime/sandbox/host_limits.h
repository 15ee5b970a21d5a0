// sandbox/host_limits.h — what the host grants VMM and file server: what the containers may use together, and the overhead (design: Host cgroups).
// Shape:   weight, quota, burst and idle of the CPU, sets of CPUs and nodes, swap, protected memory, block I/O. memory.max is not among them: it
//          follows the guest's memory (Cgroup::LimitMemory). Nor is what only the guest has: pids, huge pages, unified.
// Missing controllers: cpu and memory are no error, the guest's own cgroups and its size hold these; sets and block I/O that were asked for are, for
//          nobody else does.
// Threads: one at a time.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "cgroup/cgroup.h"
#include "cgroup/sum.h"

namespace wyvern::runtime {

class HostLimits {
 public:
  // `overhead_percent`: of a CPU, beside the containers' quotas.
  explicit HostLimits(uint32_t overhead_percent)
      : overhead_quota_(int64_t{overhead_percent} * int64_t{kDefaultCpuPeriod} / 100) {}

  // Of those that count: not of a pod's pause, nor of what has ended. CheckLimits passed. None: no limit, so that a guest boots as fast as it can.
  // Takes away what an earlier call gave. On an error, which Cgroup::Apply names, what was written stays: call it again with what is to hold.
  Result<> Apply(Cgroup& cgroup, const std::vector<Limits>& containers);

  // The CPUs of the host that the last Apply granted, as a list; empty: all.
  const std::string& cpus() const { return cpus_; }

 private:
  std::string cpus_;
  const int64_t overhead_quota_;                    // µs in kDefaultCpuPeriod
  std::set<BlockDeviceNumber> limited_, weighted_;  // that were ever given a limit, or a weight
};

}  // namespace wyvern::runtime
