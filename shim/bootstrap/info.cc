#include "bootstrap/info.h"

#include "proto/containerd_bootstrap.pb.h"

namespace wyvern::shim {

std::string FeaturesJson() {
  return R"({"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0",)"
         R"("mountOptions":["bind","rbind","ro","rro","rw","private","rprivate","slave","rslave",)"
         R"("nosuid","suid","nodev","dev","noexec","exec","idmap","ridmap"],)"
         R"("linux":{"namespaces":["cgroup","ipc","mount","network","pid","user","uts"],)"
         R"("mountExtensions":{"idmap":{"enabled":true}},)"
         R"("cgroup":{"v1":false,"v2":true,"systemd":true,"systemdUser":false},)"
         R"("seccomp":{"enabled":true},"apparmor":{"enabled":false},"selinux":{"enabled":false}}})";
}

std::string EncodeRuntimeInfo(const std::string& version) {
  containerd::runtime::bootstrap::v1::RuntimeInfo info;
  info.set_name("io.containerd.wyvern.v2");
  info.mutable_version()->set_version(version);
  info.mutable_features()->set_type_url(
      "types.containerd.io/opencontainers/runtime-spec/1/features/Features");
  info.mutable_features()->set_value(FeaturesJson());
  return info.SerializeAsString();
}

}  // namespace wyvern::shim
