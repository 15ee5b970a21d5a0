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
  message.set_config_body("sandbox:\n");
  for (const char* const type :
       {"runtimeoptions.v1.Options", "types.containerd.io/runtimeoptions.v1.Options"}) {
    const auto parsed = ParseCreateOptions(Any(type, message.SerializeAsString()));
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->config_path, "/etc/x.yaml");
    EXPECT_EQ(parsed->config_body, "sandbox:\n");
  }
}

TEST(OptionsTest, NoneAndForeignOnesAreAccepted) {
  EXPECT_TRUE(ParseCreateOptions(pb::Any()));
  EXPECT_TRUE(ParseCreateOptions(Any("containerd.runc.v1.Options", "")));
  EXPECT_TRUE(ParseCreateOptions(Any("example.Options", "\xff\xff\xff")));
}

TEST(OptionsTest, DamagedOnesOfOursAreRefused) {
  EXPECT_FALSE(ParseCreateOptions(Any("runtimeoptions.v1.Options", "\xff\xff\xff")));
  EXPECT_FALSE(ParseCreateOptions(Any("containerd.runc.v1.Options", "\x0a\x7f")));
}

}  // namespace
}  // namespace wyvern::shim
