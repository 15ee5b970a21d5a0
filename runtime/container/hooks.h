// container/hooks.h — OCI hooks that run on the host, with the container's state on stdin.
// Spec:    OCI runtime specification 1.2, config.md "POSIX-platform Hooks", runtime.md "Lifecycle".
// Blocking: until each has ended, its timeout (two minutes without one) is over, or `stop`: then it is killed with all of its process group.
//           What a hook started and left running in the background is not waited for, nor killed when the hook has ended by itself.
#pragma once

#include <sys/types.h>

#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "base/error.h"
#include "oci/spec.h"

namespace wyvern::runtime {

struct HookState {
  std::string id;
  std::string status;  // "created", "running", "stopped"
  pid_t pid = 0;       // 0: left out
  std::string bundle;
  std::map<std::string, std::string> annotations;
};

// In order; stops at the first that fails. The error names the hook and ends with its stderr. After `stop` none is started: ABORTED.
Result<> RunHooks(const char* kind, const std::vector<oci::Hook>& hooks, const HookState& state,
                  const std::stop_token& stop);

}  // namespace wyvern::runtime
