#include "bootstrap/bundle.h"

#include <array>

#include <nlohmann/json.hpp>

#include "base/fd.h"

namespace wyvern::shim {

namespace {

// In the order containerd's own shim looks for them.
constexpr std::array<const char*, 2> kGroupAnnotations{"io.containerd.runc.v2.group",
                                                       "io.kubernetes.cri.sandbox-id"};
constexpr size_t kMaxSpec = 16 << 20;
constexpr size_t kMaxGroup = 1024;

}  // namespace

Result<std::map<std::string, std::string>> AnnotationsOfSpec(const std::string& config_json) {
  // No exceptions: a document that does not parse is "discarded".
  const nlohmann::json spec = nlohmann::json::parse(config_json, nullptr, false);
  if (!spec.is_object()) {
    return Fail(Code::kInvalidArgument, "config.json is not a JSON object");
  }
  std::map<std::string, std::string> all;
  const auto annotations = spec.find("annotations");
  if (annotations == spec.end() || !annotations->is_object()) {
    return all;
  }
  for (const auto& [key, value] : annotations->items()) {
    if (value.is_string()) {
      all[key] = value.get_ref<const std::string&>();
    }
  }
  return all;
}

Result<std::map<std::string, std::string>> AnnotationsOf(const std::string& bundle) {
  WV_TRY_CONTEXT(const std::string text, ReadFile(bundle + "/config.json", kMaxSpec),
                 "reading the bundle");
  return AnnotationsOfSpec(text);
}

Result<std::string> GroupOfSpec(const std::string& config_json) {
  WV_TRY(const auto annotations, AnnotationsOfSpec(config_json));
  for (const char* const key : kGroupAnnotations) {
    const auto found = annotations.find(key);
    if (found == annotations.end() || found->second.empty()) {
      continue;
    }
    if (found->second.size() > kMaxGroup) {
      return Fail(Code::kInvalidArgument, std::string("annotation ") + key + " is too long");
    }
    return found->second;
  }
  return std::string();
}

Result<std::string> GroupOf(const std::string& bundle) {
  WV_TRY_CONTEXT(const std::string text, ReadFile(bundle + "/config.json", kMaxSpec),
                 "reading the bundle");
  return GroupOfSpec(text);
}

}  // namespace wyvern::shim
