#include "sandbox/guest_hooks.h"

#include <algorithm>

#include "base/utf8.h"

namespace wyvern::runtime {

namespace {

constexpr int kMaxHooks = 64;      // as agent.proto says
constexpr size_t kMaxPath = 4095;  // PATH_MAX, less its NUL

}  // namespace

Result<std::vector<oci::GuestHook>> CheckGuestHooks(const agent_pb::CreateSandboxResponse& answer,
                                                    const std::string& directory) {
  std::vector<oci::GuestHook> hooks;
  const bool right = answer.hooks_size() <= (directory.empty() ? 0 : kMaxHooks) &&
                     std::ranges::all_of(answer.hooks(), [&](const agent_pb::GuestHook& hook) {
                       const std::string& kind = hook.kind();
                       return (kind == "prestart" || kind == "poststart" || kind == "poststop") &&
                              hook.path().starts_with(directory + "/" + kind + "/") &&
                              hook.path().size() <= kMaxPath && ToUtf8(hook.path()) == hook.path();
                     });
  if (!right) {
    return Fail(Code::kInternal, "the guest's answer is not a list of its hooks");
  }
  for (const agent_pb::GuestHook& hook : answer.hooks()) {
    hooks.push_back({hook.kind(), hook.path()});
  }
  return hooks;
}

}  // namespace wyvern::runtime
