// cgroup/cgroup.h — the host cgroups of a sandbox: one leaf per container for its anchor, one for VMM and file server.
// Spec:    kernel Documentation/admin-guide/cgroup-v2.rst. Version 2 only; v1 is refused with what to do about it.
// Shape:   linux.cgroupsPath is a path (driver cgroupfs) or "slice:prefix:name" (driver systemd).
//          The sandbox's leaf is a sibling of the container's: in Kubernetes both are in the pod's group.
// Why xattr: directories above the leaves are shared by sandboxes that come and go; those we made carry trusted.wyvern, and whoever leaves
//          last removes them. What others made is never removed.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cgroup/limits.h"

namespace wyvern::runtime {

struct CgroupPlace {
  bool systemd = false;
  std::string slice, unit;  // systemd: "system.slice", "docker-abc.scope"
  std::string path;         // below the cgroup root, begins with '/'
};

// Empty text: /wyvern/<id>. INVALID_ARGUMENT names linux.cgroupsPath.
Result<CgroupPlace> ParseCgroupsPath(const std::string& text, const std::string& id);
// "/a/b" → "/a/wyvern-sandbox-<id>"
std::string SandboxLeaf(const CgroupPlace& place, const std::string& id);

// FAILED_PRECONDITION with the remedy when `root` is not a cgroup v2 hierarchy.
Result<> CheckCgroupRoot(const std::string& root);

class Cgroup {
 public:
  // ALREADY_EXISTS when processes are in it: asked before it is recorded as ours.
  static Result<> CheckUnused(const std::string& root, const std::string& path);

  // Makes `root` + `path` and what is missing above it, and asks for the controllers of Limits on the way (a controller that is
  // not there is no error). ALREADY_EXISTS when processes are in it.
  static Result<Cgroup> Make(const std::string& root, const std::string& path);

  const std::string& directory() const { return directory_; }

  // O_WRONLY on cgroup.procs: who writes "0" there joins.
  Result<UniqueFd> OpenProcs() const;
  Result<> Add(pid_t pid) const;
  // False: there is no memory controller here.
  Result<bool> LimitMemory(uint64_t bytes) const;
  // What `limits` asks for, which CheckLimits passed. FAILED_PRECONDITION names the controller that is missing; other errors name the file. What was
  // written before it stays.
  Result<> Apply(const Limits& limits) const;
  // How many of its processes the kernel killed for want of memory; 0 where nobody counts.
  uint64_t OutOfMemoryKills() const;

 private:
  explicit Cgroup(std::string directory) : directory_(std::move(directory)) {}

  std::string directory_;
};

// SIGKILL to all in it, then removes it and the directories above it that we made and nobody uses. `directory` is absolute and below `root`.
// Missing, or made by others: success, nothing is done. DEADLINE_EXCEEDED when processes do not go within two seconds.
Result<> RemoveCgroup(const std::string& root, const std::string& directory);

}  // namespace wyvern::runtime
