// task/options.h — Create.options: which kinds there are, and the part of them that concerns a sandbox.
// Shape:   runtimeoptions.v1.Options is ours: path and body go to runtime/config, which reads them. `start` gets the same message on stdin
//          (the task's options, else the container's), so Create's is looked at. The Sandbox API's has none: there it is what `start` got.
// Errors:  every type is accepted (an option of another runtime is no error, and is logged: it means nothing here). INVALID_ARGUMENT: one of ours
//          or runc's that does not parse, a path that is not absolute, a type_url that says the content is for another runtime.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "proto/containerd_types.pb.h"

namespace wyvern::shim {

// What runtimeoptions.v1.Options.type_url may say of path and body; empty says nothing.
inline constexpr std::string_view kOptionsType = "io.containerd.wyvern.v2.options";

// Of runtimeoptions.v1.Options; empty: none.
struct CreateOptions {
  std::string config_path;  // YAML: CRI's options.ConfigPath, ctr --runtime-config-path
  std::string config_body;  // TOML: CRI's options without a ConfigPath
};

Result<CreateOptions> ParseCreateOptions(const pb::Any& options);

// The part after the last '/': type URLs come with and without a host.
std::string TypeName(const std::string& type_url);

}  // namespace wyvern::shim
