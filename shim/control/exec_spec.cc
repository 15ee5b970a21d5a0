#include "control/exec_spec.h"

#include <charconv>
#include <optional>
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

// "uid" or "uid:gid": names would need the container's /etc/passwd.
Result<json> ParseUser(const std::string& text) {
  const auto number = [](std::string_view digits) -> std::optional<uint32_t> {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size() && !digits.empty()
               ? std::optional(value)
               : std::nullopt;
  };
  const size_t colon = text.find(':');
  const auto uid = number(std::string_view(text).substr(0, colon));
  const auto gid = colon == std::string::npos ? std::optional<uint32_t>(0)
                                              : number(std::string_view(text).substr(colon + 1));
  if (!uid || !gid) {
    return Fail(Code::kInvalidArgument,
                "user must be UID or UID:GID in numbers, not \"" + text + "\"");
  }
  return json{{"uid", *uid}, {"gid", *gid}};
}

}  // namespace

Result<std::string> MakeExecSpec(const std::string& config_json,
                                 const wyvern::control::v1::ExecRequest& request) {
  if (request.args().empty()) {
    return Fail(Code::kInvalidArgument, "no command was given");
  }
  json process = {{"user", {{"uid", 0}, {"gid", 0}}}, {"env", {kPath, "HOME=/"}}, {"cwd", "/"}};
  if (!config_json.empty()) {
    const json spec = json::parse(config_json, nullptr, false);
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
    WV_TRY(process["user"], ParseUser(request.user()));
  }
  return process.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace wyvern::shim
