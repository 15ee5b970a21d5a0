#include "storage/remove_tree.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "storage/rootfs.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

class RemoveTreeTest : public PrivateMountsTest {
 protected:
  static bool Exists(const std::string& path) {
    struct stat info = {};
    return lstat(path.c_str(), &info) == 0;
  }

  // A tree of the user's, mounted below one of ours.
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    user_ = MakeDir("user");
    MakeFile("user/precious", "p");
    ours_ = MakeDir("ours");
    MakeFile("ours/a", "a");
    MakeDir("ours/root");
  }

  std::string user_, ours_;
};

TEST_F(RemoveTreeTest, MountedBindIsRefusedAndNothingIsRemoved) {
  ASSERT_EQ(mount(user_.c_str(), (ours_ + "/root").c_str(), nullptr, MS_BIND, nullptr), 0);
  const auto removed = RemoveTree(ours_);
  ASSERT_FALSE(removed.has_value());
  EXPECT_EQ(removed.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(removed.error().message(), testing::HasSubstr(ours_ + "/root"));
  EXPECT_TRUE(Exists(user_ + "/precious"));
  EXPECT_TRUE(Exists(ours_ + "/a"));
}

TEST_F(RemoveTreeTest, MountedBindBelowASymlinkIsRefused) {
  ASSERT_EQ(symlink(dir_.c_str(), (dir_ + "/link").c_str()), 0);
  ASSERT_EQ(mount(user_.c_str(), (ours_ + "/root").c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_FALSE(RemoveTree(dir_ + "/link/ours").has_value());
  EXPECT_TRUE(Exists(user_ + "/precious"));
  EXPECT_TRUE(Exists(ours_ + "/a"));
}

TEST_F(RemoveTreeTest, MountedFileAndMountOnTopAreRefused) {
  ASSERT_EQ(mount((user_ + "/precious").c_str(), (ours_ + "/a").c_str(), nullptr, MS_BIND, nullptr),
            0);
  EXPECT_FALSE(RemoveTree(ours_).has_value());
  EXPECT_EQ(*ReadFile(user_ + "/precious"), "p");
  ASSERT_TRUE(UnmountTree(ours_).has_value());
  ASSERT_EQ(mount(user_.c_str(), ours_.c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_FALSE(RemoveTree(ours_).has_value());
  EXPECT_TRUE(Exists(user_ + "/precious"));
}

TEST_F(RemoveTreeTest, TreeGoesAndSymlinksAreNotFollowed) {
  MakeDir("ours/root/b");
  MakeFile("ours/root/b/c", "c");
  ASSERT_EQ(symlink(user_.c_str(), (ours_ + "/root/out").c_str()), 0);
  ASSERT_EQ(mkfifo((ours_ + "/fifo").c_str(), 0600), 0);
  const auto removed = RemoveTree(ours_ + "/");
  EXPECT_TRUE(removed.has_value()) << removed.error().message();
  EXPECT_FALSE(Exists(ours_));
  EXPECT_TRUE(Exists(user_ + "/precious"));
  EXPECT_TRUE(RemoveTree(ours_).has_value());
  EXPECT_TRUE(RemoveTree(ours_ + "/below").has_value());
}

TEST_F(RemoveTreeTest, NeitherASymlinkNorAFileNorDotsAreATree) {
  ASSERT_EQ(symlink(user_.c_str(), (dir_ + "/link").c_str()), 0);
  EXPECT_FALSE(RemoveTree(dir_ + "/link").has_value());
  EXPECT_FALSE(RemoveTree(user_ + "/precious").has_value());
  EXPECT_FALSE(RemoveTree(ours_ + "/..").has_value());
  EXPECT_FALSE(RemoveTree("/").has_value());
  EXPECT_FALSE(RemoveTree("").has_value());
  EXPECT_TRUE(Exists(user_ + "/precious"));
}

TEST_F(RemoveTreeTest, DepthNeedsNoDescriptors) {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit few = {64, limit.rlim_max};
  auto at = Open(ours_, O_PATH | O_DIRECTORY);
  ASSERT_TRUE(at.has_value());
  for (int i = 0; i < 3000; ++i) {
    ASSERT_EQ(mkdirat(at->get(), "d", 0700), 0);
    auto next = OpenAt(*at, "d", O_PATH | O_DIRECTORY);
    ASSERT_TRUE(next.has_value());
    *at = std::move(*next);
  }
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto removed = RemoveTree(ours_);
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_TRUE(removed.has_value()) << removed.error().message();
  EXPECT_FALSE(Exists(ours_));
}

}  // namespace
}  // namespace wyvern::runtime
