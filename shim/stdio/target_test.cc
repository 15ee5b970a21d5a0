#include "stdio/target.h"

#include <gtest/gtest.h>

namespace wyvern::shim {
namespace {

using Strings = std::vector<std::string>;

TEST(TargetTest, PathsAndFifosAndNothing) {
  EXPECT_EQ(ParseTarget("")->kind, TargetKind::kNone);
  const auto plain = ParseTarget("/run/containerd/fifo/1/t-stdout");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->kind, TargetKind::kFifo);
  EXPECT_EQ(plain->path, "/run/containerd/fifo/1/t-stdout");
  EXPECT_EQ(ParseTarget("fifo:///a/b")->path, "/a/b");
}

TEST(TargetTest, LoggerGetsItsQueryAsArgumentsInOrder) {
  const auto target = ParseTarget(
      "binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib+x&b&a=1&a=2#frag");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->kind, TargetKind::kBinary);
  EXPECT_EQ(target->path, "/usr/bin/nerdctl");
  EXPECT_FALSE(target->must_say_ready);
  EXPECT_EQ(target->arguments,
            (Strings{"_NERDCTL_INTERNAL_LOGGING", "/var/lib x", "b", "", "a", "1"}));
  EXPECT_TRUE(ParseTarget("binary-v2:///x")->must_say_ready);
}

TEST(TargetTest, StreamIsItsId) {
  const auto target =
      ParseTarget("ttrpc+unix:///run/containerd/s/ab?other=1&streaming_id=app%2Dstdout");
  ASSERT_TRUE(target);
  EXPECT_EQ(target->kind, TargetKind::kStream);
  EXPECT_EQ(target->stream, "app-stdout");
  EXPECT_TRUE(target->arguments.empty());
}

TEST(TargetTest, WrongOnesAreRefusedByName) {
  for (const char* const uri :
       {"binary://", "binary://nerdctl?x=1", "file://", "file://relative/path",
        "ttrpc+unix:///sock", "ttrpc+unix:///sock?streaming_id=", "ttrpc+unix:///s?streaming_id=%z",
        "grpc+vsock://1:2?streaming_id=x", "http://x/y", "file:///a%zz", "binary:///x?a=%4",
        "binary:///x?a=%00", "file:///%00"}) {
    const auto target = ParseTarget(uri);
    ASSERT_FALSE(target) << uri;
    EXPECT_EQ(target.error().code(), Code::kInvalidArgument);
  }
  EXPECT_FALSE(ParseTarget(std::string("/a\0b", 4)));
}

}  // namespace
}  // namespace wyvern::shim
