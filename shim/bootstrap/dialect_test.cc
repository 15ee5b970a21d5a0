#include "bootstrap/dialect.h"

#include <gtest/gtest.h>

#include "proto/containerd_bootstrap.pb.h"

namespace wyvern::shim {
namespace {

namespace boot = containerd::runtime::bootstrap::v1;

boot::BootstrapParams Params() {
  boot::BootstrapParams params;
  params.set_instance_id("abc");
  params.set_namespace_("k8s.io");
  params.set_log_level(-4);
  params.set_containerd_ttrpc_address("/run/c.ttrpc");
  params.set_socket_dir("/run/dir");
  return params;
}

TEST(DialectTest, BootstrapParamsOfThisInstanceAreOne) {
  const StartInput input = DecodeStartInput(Params().SerializeAsString(), "abc", "k8s.io");
  EXPECT_EQ(input.dialect, Dialect::kBootstrap);
  EXPECT_TRUE(input.debug);
  EXPECT_EQ(input.ttrpc_address, "/run/c.ttrpc");
  EXPECT_EQ(input.socket_dir, "/run/dir");
}

TEST(DialectTest, AnyOfRuntimeOptionsIsThePlainDialectThoughItDecodes) {
  pb::Any any;
  any.set_type_url("runtimeoptions.v1.Options");
  any.set_value("whatever");
  EXPECT_EQ(DecodeStartInput(any.SerializeAsString(), "abc", "k8s.io").dialect, Dialect::kPlain);
  EXPECT_EQ(DecodeStartInput(any.SerializeAsString(), "abc", "k8s.io").options,
            any.SerializeAsString());
  EXPECT_EQ(DecodeStartInput("", "abc", "k8s.io").dialect, Dialect::kPlain);
  EXPECT_EQ(DecodeStartInput("\xff\xff\xff", "abc", "k8s.io").dialect, Dialect::kPlain);
  EXPECT_EQ(DecodeStartInput(Params().SerializeAsString(), "other", "k8s.io").dialect,
            Dialect::kPlain);
  EXPECT_EQ(DecodeStartInput(Params().SerializeAsString(), "abc", "other").dialect,
            Dialect::kPlain);
}

TEST(DialectTest, RuntimeOptionsOfBootstrapParamsAreTheirFirstExtension) {
  boot::BootstrapParams params = Params();
  EXPECT_EQ(DecodeStartInput(params.SerializeAsString(), "abc", "k8s.io").options, "");
  pb::Any& any = *params.add_extensions()->mutable_value();
  any.set_type_url("runtimeoptions.v1.Options");
  any.set_value("whatever");
  EXPECT_EQ(DecodeStartInput(params.SerializeAsString(), "abc", "k8s.io").options,
            any.SerializeAsString());
}

TEST(DialectTest, AnswersAsTheDialectWantsThem) {
  EXPECT_EQ(EncodeStartAnswer(Dialect::kPlain, "unix:///s"), "unix:///s");
  boot::BootstrapResult result;
  ASSERT_TRUE(result.ParseFromString(EncodeStartAnswer(Dialect::kBootstrap, "unix:///s")));
  EXPECT_EQ(result.version(), 3);
  EXPECT_EQ(result.address(), "unix:///s");
  EXPECT_EQ(result.protocol(), "ttrpc");
}

TEST(DialectTest, WireNumbersAreContainerds) {
  // instance_id=1, namespace=2, log_level=3 (int32 of an enum: ten bytes when negative), socket_dir=9
  const std::string wire = Params().SerializeAsString();
  EXPECT_TRUE(
      wire.starts_with(std::string("\x0a\x03"
                                   "abc\x12\x06k8s.io\x18\xfc\xff\xff\xff\xff\xff\xff\xff\xff\x01"
                                   "\x2a\x0c/run/c.ttrpc\x4a\x08/run/dir")));
}

}  // namespace
}  // namespace wyvern::shim
