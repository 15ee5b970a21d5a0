#include "cli/keeper.h"

#include <fcntl.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "cli/commands.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;

// What a run that was killed left: a root of the user's, bound into its bundle. Its end of the pipe is closed.
class KeepRunTest : public runtime::PrivateMountsTest {
 protected:
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    const auto null = Open("/dev/null", O_RDONLY);
    ASSERT_TRUE(null.has_value());
    ASSERT_EQ(dup2(null->get(), STDIN_FILENO), STDIN_FILENO);
    MakeDir("user");
    MakeFile("user/precious", "p");
    fs::create_directories(dir_ + "/real/x/bundle/rootfs");
    fs::create_directories(dir_ + "/real/x/upper");
    fs::create_directory_symlink("real", dir_ + "/link");
  }

  void BindUserTo(const std::string& target) const {
    ASSERT_EQ(mount((dir_ + "/user").c_str(), target.c_str(), nullptr, MS_BIND, nullptr), 0);
  }

  KeptRun RunIn(const std::string& directory) const {
    return {.places = {dir_ + "/state", "/sys/fs/cgroup"},
            .ns = "wyvern-run",
            .name = "x",
            .scratch = directory + "/x"};
  }
};

TEST_F(KeepRunTest, RootBelowASymlinkIsUnmountedAndTheUsersFilesStay) {
  BindUserTo(dir_ + "/real/x/bundle/rootfs");
  const auto kept = KeepRun(RunIn(dir_ + "/link"));
  EXPECT_TRUE(kept.has_value()) << kept.error().message();
  EXPECT_FALSE(fs::exists(dir_ + "/real/x"));
  EXPECT_TRUE(fs::exists(dir_ + "/user/precious"));
}

TEST_F(KeepRunTest, WhatIsStillMountedIsNotRemoved) {
  BindUserTo(dir_ + "/real/x/upper");
  EXPECT_FALSE(KeepRun(RunIn(dir_ + "/real")).has_value());
  EXPECT_TRUE(fs::exists(dir_ + "/user/precious"));
}

TEST_F(KeepRunTest, OnlyTheRunsOwnDirectoryIsRemoved) {
  KeptRun run = RunIn(dir_ + "/real");
  run.name = "x/..";
  run.scratch = dir_ + "/real/x/..";
  EXPECT_FALSE(KeepRun(run).has_value());
  run.name = "x";
  run.scratch = dir_ + "/user";
  EXPECT_FALSE(KeepRun(run).has_value());
  EXPECT_TRUE(fs::exists(dir_ + "/real/x"));
  EXPECT_TRUE(fs::exists(dir_ + "/user/precious"));
}

TEST(RunTest, NameThatIsAPathIsRefusedBeforeAnythingElse) {
  RunOptions options;
  options.name = "x/..";
  options.source = "/absent";
  const auto code = cli::Run(options);
  ASSERT_FALSE(code.has_value());
  EXPECT_EQ(code.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(code.error().message(), testing::StartsWith("--name: id 'x/..'"));
}

}  // namespace
}  // namespace wyvern::cli
