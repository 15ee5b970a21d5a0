#include "task/options.h"

#include <algorithm>

#include "base/log.h"
#include "proto/containerd_options.pb.h"

namespace wyvern::shim {

namespace {

// containerd's word for what runc is to do and a microVM does its own way. Nothing of it is unsafe to leave out: crun in the guest makes a new
// session keyring and pivots, the container's stdio is ours, cgroupsPath's form picks the cgroup driver, shim and VMM are in the sandbox's
// cgroup, and Create refuses checkpoints. task_api_* is how containerd found us.
std::string NamesOf(const containerd::options::RuncOptions& options) {
  std::string names;
  const auto name = [&](bool given, std::string_view what) {
    if (given) {
      names += names.empty() ? "" : ", ";
      names += what;
    }
  };
  name(options.no_pivot_root(), "NoPivotRoot");
  name(options.no_new_keyring(), "NoNewKeyring");
  name(!options.shim_cgroup().empty(), "ShimCgroup");
  name(options.io_uid() != 0, "IoUid");
  name(options.io_gid() != 0, "IoGid");
  name(!options.binary_name().empty(), "BinaryName");
  name(!options.root().empty(), "Root");
  name(options.systemd_cgroup(), "SystemdCgroup");
  name(!options.criu_image_path().empty(), "CriuImagePath");
  name(!options.criu_work_path().empty(), "CriuWorkPath");
  return names;
}

Result<CreateOptions> OurOptions(const containerd::options::RuntimeOptions& message) {
  const std::string type = TypeName(message.type_url());
  if (!type.empty() && type != kOptionsType) {
    return Fail(Code::kInvalidArgument, "runtime options: TypeUrl is '" + type + "', not '" +
                                            std::string(kOptionsType) + "'");
  }
  const std::string& path = message.config_path();
  // Relative to what? Our directory is the bundle, whose rootfs is the image's.
  if (!path.empty() && (path.front() != '/' || path.find('\0') != std::string::npos)) {
    return Fail(Code::kInvalidArgument, "runtime options: ConfigPath is not an absolute path");
  }
  return CreateOptions{path, message.config_body()};
}

}  // namespace

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
    return OurOptions(message);
  }
  if (name == "containerd.runc.v1.Options") {
    containerd::options::RuncOptions message;
    if (!message.ParseFromString(options.value())) {
      return Fail(Code::kInvalidArgument, "runtime options of type " + name + " do not parse");
    }
    if (const std::string names = NamesOf(message); !names.empty()) {
      WV_INFO("runtime options of runc mean nothing here: {}", names);
    }
    return parsed;
  }
  WV_INFO("runtime options of type {} mean nothing here", name);
  return parsed;
}

}  // namespace wyvern::shim
