// cgroup/sum.h — what the host grants a sandbox: its containers' limits together, and what the sandbox itself costs.
// Shape:   of each kind of limit: a container without one makes the sum unlimited. What bounds a single container's processes (pids), or is by
//          file name (unified, huge pages), is the guest's matter and not in the sum.
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "cgroup/limits.h"

namespace wyvern::runtime {

struct SandboxOverhead {
  int64_t memory = 0;     // bytes
  int64_t cpu_quota = 0;  // µs in kDefaultCpuPeriod
};

// `before` after an update: what is given takes the place of what was, what is not given stays. The result is to be checked (CheckLimits): limits that
// fit alone need not fit together.
Limits Merged(Limits before, const Limits& with);

class SandboxLimits {
 public:
  explicit SandboxLimits(SandboxOverhead overhead) : overhead_(overhead) {}

  // Also in place of what was there. Precondition: CheckLimits passed.
  void Set(const std::string& container, Limits limits);
  void Remove(const std::string& container);

  // Every kind of limit is given, "none" where there is none, so that writing it takes an earlier one away; devices only where a container names
  // them. A set of CPUs or nodes, and a throttle, is one where all containers have one. No container: the overhead.
  Limits Sum() const;

 private:
  SandboxOverhead overhead_;
  std::map<std::string, Limits> containers_;
};

}  // namespace wyvern::runtime
