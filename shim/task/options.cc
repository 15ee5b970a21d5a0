#include "task/options.h"

#include "base/log.h"
#include "proto/containerd_options.pb.h"

namespace wyvern::shim {

std::string TypeName(const std::string& type_url) {
  const size_t slash = type_url.rfind('/');
  return slash == std::string::npos ? type_url : type_url.substr(slash + 1);
}

Result<CreateOptions> ParseCreateOptions(const pb::Any& options) {
  CreateOptions parsed;
  const std::string name = TypeName(options.type_url());
  if (name.empty()) {
    return parsed;
  }
  if (name.ends_with("runtimeoptions.v1.Options")) {
    containerd::options::RuntimeOptions message;
    if (!message.ParseFromString(options.value())) {
      return Fail(Code::kInvalidArgument, "runtime options of type " + name + " do not parse");
    }
    parsed.config_path = message.config_path();
    parsed.config_body = message.config_body();
    return parsed;
  }
  if (name == "containerd.runc.v1.Options") {
    containerd::options::RuncOptions message;
    if (!message.ParseFromString(options.value())) {
      return Fail(Code::kInvalidArgument, "runtime options of type " + name + " do not parse");
    }
    return parsed;
  }
  WV_INFO("runtime options of type {} mean nothing here", name);
  return parsed;
}

}  // namespace wyvern::shim
