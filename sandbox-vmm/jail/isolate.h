// jail/isolate.h — the process gives up what it does not need: mounts, network, uid, capabilities.
// Threads: call once, from main, while it is the only thread.
// Errors:  an Error means that the process must not go on.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include "base/error.h"

namespace wyvern::jail {

struct IsolateOptions {
  uid_t uid = 0;                 // becomes real, effective and saved; 0 is refused
  gid_t gid = 0;                 // supplementary groups are dropped
  rlim_t max_open_files = 8192;  // RLIMIT_NOFILE, soft and hard
};

// In this order: own mount, network, IPC, UTS and cgroup namespaces; an empty read-only tmpfs as root; rlimits (no core
// files: they would hold guest memory); not dumpable; uid and gid; no capability in any set; no new privileges.
// Needs CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID.
Result<> IsolateProcess(const IsolateOptions& options);

}  // namespace wyvern::jail
