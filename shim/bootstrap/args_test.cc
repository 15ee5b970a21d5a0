#include "bootstrap/args.h"

#include <gtest/gtest.h>

#include <vector>

namespace wyvern::shim {
namespace {

Result<Args> Parse(const std::vector<std::string>& argv) {
  return ParseArgs(argv);
}

TEST(ArgsTest, EveryWayOfWritingFlagsAndOrder) {
  for (const auto& argv : std::vector<std::vector<std::string>>{
           {"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary",
            "/usr/bin/containerd", "-id", "abc", "-debug", "start"},
           {"--namespace", "k8s.io", "--address=/run/c.sock", "--publish-binary",
            "/usr/bin/containerd", "--id=abc", "-debug=true", "start"},
           {"start", "-id", "abc", "-namespace=k8s.io", "-address", "/run/c.sock",
            "-publish-binary", "/usr/bin/containerd", "--debug"},
       }) {
    const auto args = Parse(argv);
    ASSERT_TRUE(args);
    EXPECT_EQ(args->action, Action::kStart);
    EXPECT_EQ(args->ns, "k8s.io");
    EXPECT_EQ(args->id, "abc");
    EXPECT_EQ(args->address, "/run/c.sock");
    EXPECT_EQ(args->publish_binary, "/usr/bin/containerd");
    EXPECT_TRUE(args->debug);
  }
}

TEST(ArgsTest, DeleteHasItsBundle) {
  const auto args = Parse({"-namespace", "d", "-id", "x", "-bundle", "/b", "delete"});
  ASSERT_TRUE(args);
  EXPECT_EQ(args->action, Action::kDelete);
  EXPECT_EQ(args->bundle, "/b");
}

TEST(ArgsTest, VersionInfoAndHelpNeedNothingElse) {
  EXPECT_EQ(Parse({"-v"})->action, Action::kVersion);
  EXPECT_EQ(Parse({"--version"})->action, Action::kVersion);
  EXPECT_EQ(Parse({"-info"})->action, Action::kInfo);
  EXPECT_EQ(Parse({"-help"})->action, Action::kHelp);
}

TEST(ArgsTest, WrongOnesSayWhatIsWrong) {
  EXPECT_FALSE(Parse({}));
  EXPECT_FALSE(Parse({"start"}));
  EXPECT_FALSE(Parse({"-id", "x", "start"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id", "x", "launch"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id", "x", "start", "delete"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id", "../x", "start"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id", "..", "start"}));
  EXPECT_FALSE(Parse({"-namespace", "n", "-id", std::string(300, 'x'), "start"}));
  EXPECT_FALSE(Parse({"-debug=maybe", "-v"}));
  const auto unknown = Parse({"-frobnicate", "-v"});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().message().find("frobnicate"), std::string::npos);
}

}  // namespace
}  // namespace wyvern::shim
