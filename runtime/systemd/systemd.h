// systemd/systemd.h — scopes of systemd: units around processes that somebody else started.
// Spec:    org.freedesktop.systemd1(5) (StartTransientUnit, SetUnitProperties), systemd.scope(5); systemd's CGROUP_DELEGATION.
// Shape:   a connection for each operation, so that systemd and the bus may be restarted between any two. The system bus, by DBUS_SYSTEM_BUS_ADDRESS
//          if that is set; where there is none, systemd's own socket, which is root's.
// Errors:  UNAVAILABLE says what to do where there is no systemd; the rest is systemd's own word.
// Threads: any; each call blocks until systemd has done it, ScopeTimeout at most.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "systemd/unit.h"

namespace wyvern::runtime {

struct SystemdOptions {
  // A call, and what it starts: as long as the host's boot or a reload of all units may keep systemd busy.
  std::chrono::milliseconds timeout{20000};
  // For an earlier unit of that name and description to go, whose processes have ended.
  std::chrono::milliseconds patience{2000};
};

struct Scope {
  std::string name;         // "cri-containerd-abc.scope"
  std::string slice;        // "system.slice"; systemd makes it if it has to
  std::string description;  // by which we know our own again
};

// Starts it with `pid` in it, delegated: what is below its cgroup is ours, systemd only watches for its end and takes it away then.
// `limits`: of cgroup/limits.h, UnitProperties. ALREADY_EXISTS: a unit of this name is somebody else's, or has processes.
Result<> StartScope(const Scope& scope, pid_t pid, std::span<const UnitProperty> limits,
                    const SystemdOptions& options = {});

// Until the next boot or the unit's end.
Result<> SetUnitProperties(const std::string& name, std::span<const UnitProperty> properties,
                           const SystemdOptions& options = {});

}  // namespace wyvern::runtime
