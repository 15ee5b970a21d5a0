// task/options.h — Create.options: which kinds there are, and the part of them that concerns a sandbox.
// Trust:   every type is accepted (an option of another runtime is no error); one of ours that does not parse is INVALID_ARGUMENT.
#pragma once

#include <string>

#include "base/error.h"
#include "proto/containerd_types.pb.h"

namespace wyvern::shim {

struct CreateOptions {
  std::string
      config_path;  // runtimeoptions.v1.Options: CRI's options.ConfigPath, ctr --runtime-config-path
  std::string config_body;
};

Result<CreateOptions> ParseCreateOptions(const pb::Any& options);

// The part after the last '/': type URLs come with and without a host.
std::string TypeName(const std::string& type_url);

}  // namespace wyvern::shim
