#include "network/netns.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace wyvern::runtime {
namespace {

TEST(NetworkNamespaceTest, MissingPathIsNamed) {
  auto opened = OpenNetworkNamespace("/run/netns/absent-namespace");
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code(), Code::kNotFound);
}

TEST(NetworkNamespaceTest, OtherFilesAreRefused) {
  for (const char* path : {"/dev/null", "/proc/self/ns/uts"}) {
    auto opened = OpenNetworkNamespace(path);
    ASSERT_FALSE(opened.has_value()) << path;
    EXPECT_EQ(opened.error().code(), Code::kInvalidArgument) << path;
  }
}

TEST(NetworkNamespaceTest, TheHostsOwnIsRefused) {
  const auto ours = Open("/proc/self/ns/net", O_RDONLY);
  ASSERT_TRUE(ours.has_value()) << ours.error().message();
  const auto refused = RefuseHostNamespace(*ours);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), testing::HasSubstr("hostNetwork"));
  EXPECT_FALSE(RefuseHostNamespace(FdRef(-1)).has_value());
}

TEST(NetworkNamespaceTest, FreshOneIsAnotherAndHasOnlyLoopback) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "making namespaces needs root";
  }
  auto made = MakeNetworkNamespace();
  ASSERT_TRUE(made.has_value()) << made.error().message();
  struct stat ours = {};
  struct stat fresh = {};
  ASSERT_EQ(stat("/proc/self/ns/net", &ours), 0);
  ASSERT_EQ(fstat(made->get(), &fresh), 0);
  EXPECT_NE(ours.st_ino, fresh.st_ino);
  EXPECT_TRUE(RefuseHostNamespace(*made).has_value());
  auto opened = OpenNetworkNamespace("/proc/self/fd/" + std::to_string(made->get()));
  ASSERT_TRUE(opened.has_value()) << opened.error().message();
}

}  // namespace
}  // namespace wyvern::runtime
