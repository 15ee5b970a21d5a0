// agent/cgroup.h — one container's control group (v2): figures, processes, freezing, killing.
// Errors:  NOT_FOUND when the group is gone. Files of controllers that the kernel lacks read as zero.
// Threads: any; holds a path only.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

// memory.events of a group and those below it; they only grow.
struct OomCounts {
  uint64_t limits = 0;  // allocations that found a limit reached and nothing to reclaim (oom)
  uint64_t kills = 0;   // processes killed for want of memory, whoever had none left (oom_kill)
};

class Cgroup {
 public:
  Cgroup() = default;

  explicit Cgroup(std::string directory) : directory_(std::move(directory)) {}

  // The group of a process. FAILED_PRECONDITION when it is in the root group: nothing may be killed by it.
  static Result<Cgroup> OfProcess(pid_t pid, const std::string& mount = "/sys/fs/cgroup");

  const std::string& directory() const { return directory_; }

  bool valid() const { return !directory_.empty(); }

  // SIGKILL to everything in it, at once (cgroup.kill).
  Result<> Kill() const;
  // Of it and of the groups below it.
  Result<std::vector<pid_t>> Processes() const;
  Result<> RequestFreeze(bool freeze) const;
  Result<bool> IsFrozen() const;
  Result<v1::ContainerStatsResponse> Stats() const;
  OomCounts OomEvents() const;

 private:
  std::string directory_;
};

}  // namespace wyvern::agent
