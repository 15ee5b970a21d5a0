#include "task/options.h"

#include <gtest/gtest.h>

#include "proto/containerd_options.pb.h"

namespace wyvern::shim {
namespace {

pb::Any Any(const std::string& type, const std::string& value) {
  pb::Any any;
  any.set_type_url(type);
  any.set_value(value);
  return any;
}

TEST(OptionsTest, RuntimeOptionsCarryPathAndBody) {
  containerd::options::RuntimeOptions message;
  message.set_config_path("/etc/x.yaml");
  message.set_config_body("[sandbox]\n");
  for (const char* const type :
       {"runtimeoptions.v1.Options", "types.containerd.io/runtimeoptions.v1.Options"}) {
    const auto parsed = ParseCreateOptions(Any(type, message.SerializeAsString()));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->config_path, "/etc/x.yaml");
    EXPECT_EQ(parsed->config_body, "[sandbox]\n");
  }
}

TEST(OptionsTest, NoneAndForeignOnesAreAccepted) {
  EXPECT_TRUE(ParseCreateOptions(pb::Any()));
  EXPECT_TRUE(ParseCreateOptions(Any("containerd.runc.v1.Options", "")));
  EXPECT_TRUE(ParseCreateOptions(Any("example.Options", "\xff\xff\xff")));
}

TEST(OptionsTest, RuncsAreAcceptedAndNamedInTheLog) {
  containerd::options::RuncOptions message;
  message.set_systemd_cgroup(true);
  message.set_binary_name("/usr/bin/other");
  message.set_shim_cgroup("/pod");
  message.set_task_api_address("/run/containerd/s/x");
  testing::internal::CaptureStderr();
  const auto parsed =
      ParseCreateOptions(Any("containerd.runc.v1.Options", message.SerializeAsString()));
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->config_path + parsed->config_body, "");
  EXPECT_NE(log.find("mean nothing here: ShimCgroup, BinaryName, SystemdCgroup"), std::string::npos)
      << log;
}

TEST(OptionsTest, ContentForAnotherRuntimeIsRefused) {
  containerd::options::RuntimeOptions message;
  message.set_config_body("[sandbox]\n");
  for (const char* const type : {"io.containerd.wyvern.v2.options",
                                 "types.example.com/io.containerd.wyvern.v2.options", ""}) {
    message.set_type_url(type);
    EXPECT_TRUE(ParseCreateOptions(Any("runtimeoptions.v1.Options", message.SerializeAsString())))
        << type;
  }
  message.set_type_url("io.containerd.runsc.v1.options");
  const auto parsed =
      ParseCreateOptions(Any("runtimeoptions.v1.Options", message.SerializeAsString()));
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument);
  EXPECT_NE(parsed.error().message().find("io.containerd.runsc.v1.options"), std::string::npos);
}

TEST(OptionsTest, PathsThatAreNotAbsoluteAreRefused) {
  containerd::options::RuntimeOptions message;
  for (const std::string& path :
       {std::string("rootfs/etc/x.yaml"), std::string("../x.yaml"), std::string("/x\0y", 4)}) {
    message.set_config_path(path);
    const auto parsed =
        ParseCreateOptions(Any("runtimeoptions.v1.Options", message.SerializeAsString()));
    ASSERT_FALSE(parsed) << path;
    EXPECT_EQ(parsed.error().code(), Code::kInvalidArgument);
  }
}

TEST(OptionsTest, DamagedOnesOfOursAreRefused) {
  EXPECT_FALSE(ParseCreateOptions(Any("runtimeoptions.v1.Options", "\xff\xff\xff")));
  EXPECT_FALSE(ParseCreateOptions(Any("containerd.runc.v1.Options", "\x0a\x7f")));
}

}  // namespace
}  // namespace wyvern::shim
