#include "bootstrap/info.h"

#include <gtest/gtest.h>

#include <algorithm>

#include <nlohmann/json.hpp>

#include "proto/containerd_bootstrap.pb.h"

namespace wyvern::shim {
namespace {

TEST(InfoTest, OnlyWhatIsImplementedIsOffered) {
  const auto features = nlohmann::json::parse(FeaturesJson());
  EXPECT_EQ(features["linux"]["cgroup"],
            nlohmann::json::parse(R"({"v1":false,"v2":true,"systemd":true,"systemdUser":false})"));
  EXPECT_EQ(features["linux"]["namespaces"],
            nlohmann::json({"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}));
  const auto& options = features["mountOptions"];
  // containerd's CRI looks for "rro"; "rshared" is refused.
  EXPECT_NE(std::find(options.begin(), options.end(), "rro"), options.end());
  EXPECT_EQ(std::find(options.begin(), options.end(), "rshared"), options.end());
  // What kubelet asks for before it makes a pod with hostUsers: false.
  EXPECT_EQ(features["linux"]["mountExtensions"]["idmap"]["enabled"], true);
  EXPECT_EQ(features["linux"]["seccomp"]["enabled"], true);
  for (const char* module : {"apparmor", "selinux"}) {
    EXPECT_EQ(features["linux"][module]["enabled"], false) << module;
  }
}

TEST(InfoTest, ContainerdReadsItAsRuntimeInfo) {
  containerd::runtime::bootstrap::v1::RuntimeInfo info;
  ASSERT_TRUE(info.ParseFromString(EncodeRuntimeInfo("1.2.3")));
  EXPECT_EQ(info.name(), "io.containerd.wyvern.v2");
  EXPECT_EQ(info.version().version(), "1.2.3");
  EXPECT_EQ(info.features().value(), FeaturesJson());
}

}  // namespace
}  // namespace wyvern::shim
