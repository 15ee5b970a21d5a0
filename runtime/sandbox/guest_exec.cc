// Execs in the guest itself: `wyvern exec --guest`.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "sandbox/sandbox_impl.h"

namespace wyvern::runtime {
namespace {

using nlohmann::json;

constexpr const char* kSwitch = "guest.debug_exec";

// `process_json` comes from oci::TranslateProcess: what is there has its type.
agent_pb::GuestCommand ToGuestCommand(const std::string& process_json) {
  const json process = json::parse(process_json);
  agent_pb::GuestCommand command;
  for (const json& argument : process.value("args", json::array())) {
    command.add_args(argument.get<std::string>());
  }
  for (const json& entry : process.value("env", json::array())) {
    command.add_env(entry.get<std::string>());
  }
  command.set_cwd(process.value("cwd", "/"));
  const json user = process.value("user", json::object());
  command.set_uid(user.value("uid", uint32_t{0}));
  command.set_gid(user.value("gid", uint32_t{0}));
  return command;
}

}  // namespace

Result<> SandboxImpl::CheckGuestExec() const {
  if (config_.guest.debug_exec) {
    return {};
  }
  const auto origin = config_.origins.find(kSwitch);
  return Fail(Code::kFailedPrecondition,
              fmt::format("commands in the guest itself are switched off for this sandbox: {} is "
                          "false ({}); a sandbox started with \"true\" takes them",
                          kSwitch, origin == config_.origins.end() ? "built-in" : origin->second));
}

Result<> SandboxImpl::AddProcess(const std::string& id, const std::string& exec_id,
                                 const std::string& process_json, const agent_pb::Stdio& stdio) {
  return id.empty() ? agent_->AddGuestProcess(exec_id, ToGuestCommand(process_json), stdio)
                    : agent_->AddProcess(id, exec_id, process_json, stdio);
}

}  // namespace wyvern::runtime
