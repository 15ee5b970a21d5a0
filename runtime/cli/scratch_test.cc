#include "cli/scratch.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <optional>

#include "storage/testing/private_mounts.h"

namespace wyvern::cli {
namespace {

namespace fs = std::filesystem;

class ScratchTest : public runtime::PrivateMountsTest {};

TEST_F(ScratchTest, NamesThatArePathsMakeNothing) {
  for (const char* name : {"x/..", "..", ".", "", "/x", "x/y", "x/"}) {
    const auto scratch = Scratch::Create(name, dir_ + "/run");
    ASSERT_FALSE(scratch.has_value()) << name;
    EXPECT_EQ(scratch.error().code(), Code::kInvalidArgument) << name;
  }
  EXPECT_FALSE(fs::exists(dir_ + "/run"));
}

TEST_F(ScratchTest, SecondOfANameIsRefusedAndTakesNothingAway) {
  {
    const auto first = Scratch::Create("x", dir_);
    ASSERT_TRUE(first.has_value()) << first.error().message();
    const auto second = Scratch::Create("x", dir_);
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code(), Code::kAlreadyExists);
    for (const std::string& part : {first->bundle() + "/rootfs", first->upper(), first->work()}) {
      EXPECT_TRUE(fs::is_directory(part)) << part;
    }
  }
  EXPECT_FALSE(fs::exists(dir_ + "/x"));
}

TEST_F(ScratchTest, WhatIsMountedThereOutlivesIt) {
  const std::string user = MakeDir("user");
  MakeFile("user/precious", "p");
  fs::create_directory(dir_ + "/real");
  fs::create_directory_symlink("real", dir_ + "/link");
  {
    const auto scratch = Scratch::Create("x", dir_ + "/link");
    ASSERT_TRUE(scratch.has_value()) << scratch.error().message();
    const std::string root = scratch->bundle() + "/rootfs";
    ASSERT_EQ(mount(user.c_str(), root.c_str(), nullptr, MS_BIND, nullptr), 0);
  }
  EXPECT_TRUE(fs::exists(user + "/precious"));
  const auto again = Scratch::Create("x", dir_ + "/link");
  ASSERT_FALSE(again.has_value());
  EXPECT_THAT(again.error().message(),
              testing::HasSubstr("unmount " + dir_ + "/real/x/bundle/rootfs and remove"));
}

}  // namespace
}  // namespace wyvern::cli
