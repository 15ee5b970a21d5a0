// cgroup/cgroup.h — the host cgroups of a sandbox: one leaf per container for its anchor, one for VMM and file server.
// Spec:    kernel Documentation/admin-guide/cgroup-v2.rst. Version 2 only; v1 is refused with what to do about it. systemd's CGROUP_DELEGATION.
// Shape:   linux.cgroupsPath is a path (driver cgroupfs) or "slice:prefix:name" (driver systemd): then a leaf is a scope, delegated to us, whose
//          limits systemd knows too, lest it write its own over them.
//          The sandbox's leaf is a sibling of the container's: in Kubernetes both are in the pod's group.
// Why xattr: directories above the leaves are shared by sandboxes that come and go; those we made carry trusted.wyvern, and whoever leaves
//          last removes them. What others made is never removed. A scope of ours carries it, too, with another value: systemd removes it.
// Threads: any.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "base/fd.h"
#include "cgroup/limits.h"
#include "systemd/systemd.h"

namespace wyvern::runtime {

struct CgroupPlace {
  bool systemd = false;
  std::string slice, unit;  // systemd: "system.slice", "docker-abc.scope"
  std::string path;         // below the cgroup root, begins with '/'
};

// Empty text: /wyvern/<id>. INVALID_ARGUMENT names linux.cgroupsPath.
Result<CgroupPlace> ParseCgroupsPath(const std::string& text, const std::string& id);
// "/a/b" → "/a/wyvern-sandbox-<id>"; of a scope, wyvern-sandbox-<id>.scope in the same slice.
CgroupPlace SandboxPlace(const CgroupPlace& place, const std::string& id);

// FAILED_PRECONDITION with the remedy when `root` is not a cgroup v2 hierarchy.
Result<> CheckCgroupRoot(const std::string& root);

class Cgroup {
 public:
  // ALREADY_EXISTS when processes are in it: asked before it is recorded as ours.
  static Result<> CheckUnused(const std::string& root, const std::string& path);

  // cgroupfs: makes `root` + place.path and what is missing above it, and asks for the controllers of Limits on the way (a controller that is
  // not there is no error). ALREADY_EXISTS when processes are in it.
  // systemd: a scope begins with its first process, so the first Add makes it. What was asked for before it is done then.
  static Result<Cgroup> Make(const std::string& root, const CgroupPlace& place,
                             const std::string& id);

  const std::string& directory() const { return directory_; }

  // O_WRONLY on cgroup.procs: who writes "0" there joins. Not valid as long as there is no scope: its first process is added.
  Result<UniqueFd> OpenProcs() const;
  // systemd: blocks while it makes the scope (StartScope). FAILED_PRECONDITION when that is not where the cgroup hierarchy says.
  Result<> Add(pid_t pid);
  // False: there is no memory controller here.
  Result<bool> LimitMemory(uint64_t bytes);
  // What `limits` asks for, which CheckLimits passed; what it does not give stays. FAILED_PRECONDITION names the controller that is missing; other
  // errors name the file, or systemd. What was written before it stays.
  Result<> Apply(const Limits& limits);
  // Those that the kernel has for it: "cpu", "memory", … Before there is a scope: all that systemd delegates.
  std::set<std::string> Controllers() const;
  // How many of its processes the kernel killed for want of memory; 0 where nobody counts.
  uint64_t OutOfMemoryKills() const;

 private:
  explicit Cgroup(std::string directory) : directory_(std::move(directory)) {}

  bool IsScope() const { return !scope_.name.empty(); }

  Result<> Write(const Limits& limits) const;
  Result<bool> WriteMemory(uint64_t bytes) const;
  Result<bool> LimitMemoryLocked(uint64_t bytes);
  Result<> Begin(pid_t pid);

  std::string directory_;
  Scope scope_;  // its name is empty: cgroupfs
  std::unique_ptr<std::mutex> mu_ = std::make_unique<std::mutex>();
  bool begun_ = true;  // there is a directory; guarded by mu_, as the rest
  Limits wanted_;      // until there is one
  std::optional<uint64_t> wanted_memory_;
};

// SIGKILL to all in it, then removes it and the directories above it that we made and nobody uses; a scope is removed by systemd, and by us if that
// takes longer than two seconds. `directory` is absolute and below `root`.
// Missing, or made by others: success, nothing is done. DEADLINE_EXCEEDED when processes do not go within two seconds.
Result<> RemoveCgroup(const std::string& root, const std::string& directory);

}  // namespace wyvern::runtime
