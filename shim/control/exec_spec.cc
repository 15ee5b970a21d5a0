#include "control/exec_spec.h"

#include <string_view>

#include <nlohmann/json.hpp>

namespace wyvern::shim {

namespace {

using nlohmann::json;

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string_view KeyOf(std::string_view entry) {
  return entry.substr(0, entry.find('='));
}

// Later entries replace earlier ones of the same name.
void MergeEnv(json& process, const google::protobuf::RepeatedPtrField<std::string>& env) {
  json merged = json::array();
  if (const auto old = process.find("env"); old != process.end() && old->is_array()) {
    for (const json& entry : *old) {
      bool replaced = !entry.is_string();
      for (const std::string& added : env) {
        replaced = replaced || KeyOf(entry.get_ref<const std::string&>()) == KeyOf(added);
      }
      if (!replaced) {
        merged.push_back(entry);
      }
    }
  }
  for (const std::string& added : env) {
    merged.push_back(added);
  }
  process["env"] = std::move(merged);
}

Result<json> UserOf(const json& spec, const std::string& user, const UserFilesReader& read_users) {
  if (!spec.is_object()) {
    auto ids = runtime::FindUser({}, user);
    if (!ids.has_value()) {
      return Fail(Code::kInvalidArgument,
                  "a user of the guest itself is UID or UID:GID in numbers, not \"" + user + "\"");
    }
    return json{{"uid", ids->uid}, {"gid", ids->gid}};
  }
  const auto root = spec.find("root");
  if (root == spec.end() || !root->is_object() || !root->contains("path") ||
      !(*root)["path"].is_string()) {
    return Fail(Code::kInvalidArgument, "the container's config.json has no root.path");
  }
  WV_TRY_CONTEXT(const runtime::UserFiles files, read_users((*root)["path"].get<std::string>()),
                 "the user in the container");
  WV_TRY_CONTEXT(const runtime::UserIds ids, runtime::FindUser(files, user),
                 "the user in the container");
  return json{{"uid", ids.uid}, {"gid", ids.gid}, {"additionalGids", ids.groups}};
}

}  // namespace

Result<std::string> MakeExecSpec(const std::string& config_json,
                                 const wyvern::control::v1::ExecRequest& request,
                                 const UserFilesReader& read_users) {
  if (request.args().empty()) {
    return Fail(Code::kInvalidArgument, "no command was given");
  }
  json process = {{"user", {{"uid", 0}, {"gid", 0}}}, {"env", {kPath, "HOME=/"}}, {"cwd", "/"}};
  json spec;
  if (!config_json.empty()) {
    spec = json::parse(config_json, nullptr, false);
    if (!spec.is_object() || !spec.contains("process") || !spec["process"].is_object()) {
      return Fail(Code::kInvalidArgument, "the container's config.json has no process");
    }
    process = spec["process"];
  }
  process["args"] = std::vector<std::string>(request.args().begin(), request.args().end());
  process["terminal"] = request.terminal();
  process.erase("consoleSize");
  if (request.rows() > 0 && request.columns() > 0) {
    process["consoleSize"] = {{"height", request.rows()}, {"width", request.columns()}};
  }
  MergeEnv(process, request.env());
  if (!request.cwd().empty()) {
    process["cwd"] = request.cwd();
  }
  if (!request.user().empty()) {
    WV_TRY(process["user"], UserOf(spec, request.user(), read_users));
  }
  return process.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace wyvern::shim
