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
  uint64_t OomKills() const;

 private:
  std::string directory_;
};

}  // namespace wyvern::agent
