#include "install/containerd_config.h"

#include <gmock/gmock.h>

#include <string>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// What Debian 13 ships.
constexpr char kDebian[] = R"(version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
)";

TEST(ContainerdConfigTest, FilesOfDeployAreWhatInstallWrites) {
  const std::string deploy = WV_DEPLOY_DIR;
  EXPECT_EQ(Must(ReadFile(deploy + "/containerd/wyvern-v2.toml")), HandlerToml(2));
  EXPECT_EQ(Must(ReadFile(deploy + "/containerd/wyvern-v3.toml")), HandlerToml(3));
  for (const int version : {2, 3}) {
    const ContainerdConfig config = ReadContainerdConfig(HandlerToml(version));
    EXPECT_EQ(config.version, version);
    EXPECT_THAT(config.handlers, ElementsAre("wyvern"));
  }
}

TEST(ContainerdConfigTest, StatementsAreFoundInEverySpelling) {
  const ContainerdConfig config = ReadContainerdConfig(R"(
# version = 7
imports = [ # version = 8
  "/etc/containerd/conf.d/*.toml", 'other.toml', # "not/this"
]
version=3 # the last
root = """
version = 9
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.fake]
"""
state = '''
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.fake2] '''
label = "a # \" [b"
[ plugins . 'io.containerd.cri.v1.runtime' . containerd . runtimes . "runc" ] # comment
version = 4
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
[plugins."io.containerd.grpc.v1.cri".containerd]
runtimes.kata = { runtime_type = "x", list = [ "]", { a = 1 } ] }
)");
  EXPECT_EQ(config.version, 3);
  EXPECT_THAT(config.imports, ElementsAre("/etc/containerd/conf.d/*.toml", "other.toml"));
  EXPECT_THAT(config.handlers, ElementsAre("runc", "crun", "kata"));
}

TEST(ContainerdConfigTest, StatementsCountLinesAndNameTheirSection) {
  const auto statements = TomlStatements("a = 1\n\n[b.\"c.d\"]\n  e = [\n 1 ]\nf = 'x' # y\n");
  ASSERT_EQ(statements.size(), 4U);
  EXPECT_EQ(statements[1].line, 3);
  EXPECT_EQ(statements[1].section, "b.c.d");
  EXPECT_EQ(statements[2].key, "e");
  EXPECT_EQ(statements[3].line, 6);
  EXPECT_EQ(statements[3].section, "b.c.d");
  EXPECT_EQ(statements[3].value, "'x'");
}

TEST(ContainerdConfigTest, NoTextIsTooStrange) {
  for (const std::string text :
       {"", "[", "[[", "]", "=", "a", "a =", "\"", "'", "\"\"\"", "'''x", "a = [", "a = [[[{{",
        "a = \"\\", "[\"", "#", "\n=\n", "a = ]]}}\nversion = 2", "\0x = 1"}) {
    (void)ReadContainerdConfig(text);
    for (size_t cut = 0; cut < text.size(); ++cut) {
      (void)TomlStatements(std::string_view(text).substr(cut));
      (void)TomlStrings(std::string_view(text).substr(cut));
    }
  }
  EXPECT_EQ(ReadContainerdConfig("a = ]]}}\nversion = 2").version, 2);
}

TEST(ContainerdConfigTest, ImportsNameAFileByPatternOrPath) {
  ContainerdConfig config;
  const auto imports = [&config](const char* pattern) {
    config.imports = {pattern};
    return ImportsPath(config, "/etc/containerd", "/etc/containerd/conf.d/wyvern.toml");
  };
  EXPECT_TRUE(imports("/etc/containerd/conf.d/*.toml"));
  EXPECT_TRUE(imports("conf.d/wyvern.toml"));
  EXPECT_FALSE(imports("conf.d/*.toml"));
  EXPECT_FALSE(imports("/etc/containerd/*.toml"));
  EXPECT_FALSE(imports("/etc/containerd/conf.d/kata.toml"));
}

TEST(ContainerdConfigTest, AHandlerGoesInAndOut) {
  const std::string with = WithHandler(kDebian);
  EXPECT_THAT(ReadContainerdConfig(with).handlers, ElementsAre("runc", "wyvern"));
  EXPECT_EQ(WithoutHandler(with), kDebian);
  EXPECT_EQ(WithHandler(with), with);
  EXPECT_EQ(WithoutHandler(kDebian), std::nullopt);
}

TEST(ContainerdConfigTest, WhatWasAddedBehindOursStays) {
  const std::string with = WithHandler(kDebian) + "[grpc]\n";
  EXPECT_EQ(WithoutHandler(with), std::string(kDebian) + "[grpc]\n");
}

TEST(ContainerdConfigTest, OnlyWhatStandsBetweenBothLinesIsOurs) {
  const std::string with = WithHandler("version = 2\n");
  const size_t end = with.rfind("# END");
  const std::string cut = with.substr(0, end) + "[grpc]\n";
  EXPECT_EQ(WithoutHandler(cut), std::nullopt);
  EXPECT_EQ(WithoutHandler(WithHandler(cut)), cut);
}

TEST(ContainerdConfigTest, HandlersThatAreDefinedAreLeftAlone) {
  const std::string text =
      std::string(kDebian) +
      "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\n  runtime_type = \"x\"";
  EXPECT_THAT(ReadContainerdConfig(WithHandler(text)).handlers, ElementsAre("crun", "wyvern"));
}

TEST(ContainerdConfigTest, Version3KeepsContainerdsOwnRunc) {
  const std::string with = WithHandler("version = 3\n");
  EXPECT_THAT(with, HasSubstr("io.containerd.cri.v1.runtime"));
  EXPECT_THAT(with, Not(HasSubstr("runc")));
  EXPECT_THAT(ReadContainerdConfig("").handlers, IsEmpty());
}

}  // namespace
}  // namespace wyvern::cli
