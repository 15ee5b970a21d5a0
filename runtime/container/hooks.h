// container/hooks.h — OCI hooks that run on the host, with the container's state on stdin.
// Spec:    OCI runtime specification 1.2, config.md "POSIX-platform Hooks", runtime.md "Lifecycle"; where that and runc differ (a poststart hook
//          that fails) what runc does, which the specification says since.
// Program: `path`, with `args` as its argv (docker's hook finds in argv[0] what it is), in the bundle, in our namespaces. Its output is dropped,
//          but for what an error ends with.
// Blocking: until each has ended, its timeout (two minutes without one) is over, or `stop`: then it is killed with all of its process group.
//           What a hook started and left running in the background is not waited for, nor killed when the hook has ended by itself.
// Trust:   hooks are those of whoever calls Create: they may do what the runtime may.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "base/fd.h"
#include "oci/spec.h"

namespace wyvern::runtime {

// A longer timeout is not had (oci::Spec::Parse).
inline constexpr std::chrono::hours kMaxHookTimeout{1};

struct HookState {
  std::string id;
  std::string status;  // "creating", "running", "stopped"
  pid_t pid = 0;       // the anchor's; 0: left out, it has ended
  std::string bundle;
  std::map<std::string, std::string> annotations;
};

// In order; stops at the first that fails. The error names the hook and ends with its stderr. After `stop` none is started: ABORTED.
Result<> RunHooks(const char* kind, const std::vector<oci::Hook>& hooks, const HookState& state,
                  const std::stop_token& stop);

// prestart, createRuntime, createContainer, in this order and as RunHooks. The last run in the network namespace of the
// anchor, `state.pid`, and in a mount namespace of their own: the container's root is at its place in the bundle, and what they write there is in
// the container; what they mount is gone with them.
Result<> RunCreateHooks(const oci::HostHooks& hooks, const HookState& state,
                        const std::stop_token& stop);

// All of them, whichever fails: that is logged. Each gets `limit` at most, whatever its timeout is.
void RunPoststopHooks(const std::vector<oci::Hook>& hooks, const HookState& state,
                      const std::stop_token& stop, std::chrono::seconds limit);

}  // namespace wyvern::runtime
