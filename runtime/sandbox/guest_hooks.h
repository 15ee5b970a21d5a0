// runtime/sandbox/guest_hooks.h — guest.hooks: what the guest says that its hooks are, checked.
#pragma once

#include <string>
#include <vector>

#include "agent_client/agent_client.h"
#include "base/error.h"
#include "oci/spec.h"

namespace wyvern::runtime {

// In the guest's order. INTERNAL: an answer that no guest of ours gives: too many, another kind, or a path that is not below
// `directory`, as guest.hooks says it.
Result<std::vector<oci::GuestHook>> CheckGuestHooks(const agent_pb::CreateSandboxResponse& answer,
                                                    const std::string& directory);

}  // namespace wyvern::runtime
