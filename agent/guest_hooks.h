// agent/guest_hooks.h — programs of the guest that every container has as hooks: those of a directory, by kind.
// Threads: any; blocks for as long as the directory's file system does.
#pragma once

#include <string>

#include "base/error.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

inline constexpr int kMaxGuestHooks = 64;  // as agent.proto says

// Appends the executable regular files of <directory>/{prestart,poststart,poststop}, those of a kind by name; a kind without a
// directory has none. INVALID_ARGUMENT: `directory` is not absolute; NOT_FOUND: it is not there; RESOURCE_EXHAUSTED: more than
// kMaxGuestHooks.
Result<> FindGuestHooks(const std::string& directory, v1::CreateSandboxResponse* response);

}  // namespace wyvern::agent
