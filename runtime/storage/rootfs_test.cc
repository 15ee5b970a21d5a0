#include "storage/rootfs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/subprocess.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

Result<> Nothing(const std::string&) {
  return {};
}

class RootfsTest : public PrivateMountsTest {};

TEST_F(RootfsTest, MissingBindSourceIsNamed) {
  const std::string root = MakeDir("root");
  auto result = MountRootfs({{"bind", dir_ + "/absent", "", {"rbind"}}}, root, Nothing);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kNotFound);
  EXPECT_THAT(result.error().message(), HasSubstr(dir_ + "/absent"));
}

TEST_F(RootfsTest, FailureInTheMiddleLeavesNothing) {
  const std::string root = MakeDir("root");
  const std::string source = MakeDir("source");
  auto result =
      MountRootfs({{"bind", source, "", {"bind"}}, {"nosuchfs", "x", "", {}}}, root, Nothing);
  EXPECT_FALSE(result.has_value());
  EXPECT_TRUE(MountsBelow(root)->empty());
}

TEST_F(RootfsTest, ReadOnlyBindCannotBeWritten) {
  const std::string root = MakeDir("root");
  const std::string source = MakeDir("source");
  std::vector<std::string> told;
  ASSERT_TRUE(MountRootfs({{"bind", source, "", {"rbind", "ro"}}}, root, [&](const std::string& p) {
                told.push_back(p);
                EXPECT_TRUE(MountsBelow(root)->empty());
                return Result<>();
              }).has_value());
  EXPECT_EQ(told, std::vector<std::string>{root});
  EXPECT_FALSE(WriteFile(root + "/x", "y").has_value());
  EXPECT_TRUE(WriteFile(source + "/x", "y").has_value());
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_FALSE(ReadFile(root + "/x").has_value());
}

TEST_F(RootfsTest, OverlayOf120Layers) {
  const std::string root = MakeDir("root");
  // Paths as long as a snapshotter's, so that one page would not hold them.
  std::string lower;
  const std::string deep = MakeDir(std::string(100, 'd'));
  for (int i = 0; i < 120; ++i) {
    const std::string layer = fmt::format("{}/{}", deep.substr(dir_.size() + 1), i);
    MakeDir(layer);
    MakeFile(fmt::format("{}/file{}", layer, i), fmt::format("{}", i));
    MakeFile(layer + "/top", fmt::format("{}", i));
    lower += fmt::format("{}{}/{}", lower.empty() ? "" : ":", dir_, layer);
  }
  ASSERT_GT(lower.size(), 4096U);
  const std::string upper = MakeDir("upper:with,comma");
  const std::string work = MakeDir("work");
  auto result =
      MountRootfs({{"overlay",
                    "overlay",
                    "",
                    {"index=off", "workdir=" + work, "upperdir=" + upper, "lowerdir=" + lower}}},
                  root, Nothing);
  ASSERT_TRUE(result.has_value()) << result.error().message();
  EXPECT_EQ(*ReadFile(root + "/file119"), "119");
  EXPECT_EQ(*ReadFile(root + "/top"), "0");
  ASSERT_TRUE(WriteFile(root + "/new", "n").has_value());
  EXPECT_EQ(*ReadFile(upper + "/new"), "n");
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_TRUE(MountsBelow(root)->empty());
}

// As containerd 2 has overlays made for containers with a user namespace: what is 0 in a layer is 100000 here, and what is written stays as it is.
TEST_F(RootfsTest, LayersOfAnOverlayAreIdMapped) {
  const std::string root = MakeDir("root");
  for (const char* name : {"one", "two", "upper", "work"}) {
    MakeDir(name);
  }
  MakeFile("one/a", "1");
  MakeFile("two/b", "2");
  ASSERT_EQ(chown((dir_ + "/two/b").c_str(), 7, 8), 0);
  const MountEntry overlay{
      "overlay",
      "overlay",
      "",
      {"uidmap=0:100000:65536", "gidmap=0:200000:65536", "workdir=" + dir_ + "/work",
       "upperdir=" + dir_ + "/upper", "lowerdir=" + dir_ + "/one:" + dir_ + "/two"}};
  const auto mounted = MountRootfs({overlay}, root, Nothing);
  if (!mounted.has_value() && mounted.error().code() == Code::kFailedPrecondition) {
    GTEST_SKIP() << mounted.error().message();
  }
  ASSERT_TRUE(mounted.has_value()) << mounted.error().message();
  struct stat info = {};
  ASSERT_EQ(stat((root + "/a").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 100000U);
  EXPECT_EQ(info.st_gid, 200000U);
  ASSERT_EQ(stat((root + "/b").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 100007U);
  EXPECT_EQ(info.st_gid, 200008U);
  EXPECT_EQ(MountsBelow(root)->size(), 1U) << "the layers' own mounts are nowhere";
  ASSERT_EQ(chown((root + "/b").c_str(), 100009, 200009), 0);
  ASSERT_EQ(stat((dir_ + "/upper/b").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 100009U);
  EXPECT_TRUE(UnmountTree(root).has_value());
}

TEST_F(RootfsTest, BindIsIdMapped) {
  const std::string root = MakeDir("root");
  MakeDir("source");
  MakeFile("source/f", "x");
  const MountEntry bind{
      "bind", dir_ + "/source", "", {"rbind", "ro", "uidmap=0:1000:1", "gidmap=0:2000:1"}};
  const auto mounted = MountRootfs({bind}, root, Nothing);
  if (!mounted.has_value() && mounted.error().code() == Code::kFailedPrecondition) {
    GTEST_SKIP() << mounted.error().message();
  }
  ASSERT_TRUE(mounted.has_value()) << mounted.error().message();
  struct stat info = {};
  ASSERT_EQ(stat((root + "/f").c_str(), &info), 0);
  EXPECT_EQ(info.st_uid, 1000U);
  EXPECT_EQ(info.st_gid, 2000U);
  EXPECT_FALSE(WriteFile(root + "/x", "y").has_value()) << "still read-only";
  EXPECT_TRUE(UnmountTree(root).has_value());
}

TEST_F(RootfsTest, IdMapsThatAreNoneAreRefusedAndLeaveNothing) {
  const std::string root = MakeDir("root");
  const std::string source = MakeDir("source");
  for (const std::vector<std::string>& words : {std::vector<std::string>{"uidmap=0:1:1"},
                                                {"gidmap=0:1:1"},
                                                {"uidmap=x", "gidmap=0:1:1"},
                                                {"uidmap=0:1:0", "gidmap=0:1:1"},
                                                {"uidmap=0:4294967295:1", "gidmap=0:1:1"}}) {
    std::vector<std::string> options = {"bind"};
    options.insert(options.end(), words.begin(), words.end());
    const auto bound = MountRootfs({{"bind", source, "", options}}, root, Nothing);
    ASSERT_FALSE(bound.has_value()) << words[0];
    EXPECT_EQ(bound.error().code(), Code::kInvalidArgument);
    options = words;
    options.push_back("lowerdir=" + source + ":" + source);
    EXPECT_FALSE(MountRootfs({{"overlay", "overlay", "", options}}, root, Nothing).has_value());
    EXPECT_TRUE(MountsBelow(root)->empty());
  }
}

TEST_F(RootfsTest, MissingLayerIsNamed) {
  const std::string root = MakeDir("root");
  auto result =
      MountRootfs({{"overlay", "overlay", "", {"lowerdir=/absent-a:/absent-b"}}}, root, Nothing);
  ASSERT_FALSE(result.has_value());
  EXPECT_THAT(result.error().message(), HasSubstr("/absent-a"));
}

TEST_F(RootfsTest, TargetsAreResolvedInsideTheRoot) {
  const std::string root = MakeDir("root");
  const std::string image = MakeDir("image");
  MakeDir("image/etc");
  ASSERT_EQ(symlink("/", (image + "/escape").c_str()), 0);
  const std::string extra = MakeDir("extra");
  MakeFile("extra/here", "1");
  auto result = MountRootfs(
      {{"bind", image, "", {"bind"}}, {"bind", extra, "escape/etc", {"bind"}}}, root, Nothing);
  ASSERT_TRUE(result.has_value()) << result.error().message();
  EXPECT_TRUE(ReadFile(root + "/etc/here").has_value());
  EXPECT_FALSE(ReadFile("/etc/here").has_value());
  EXPECT_TRUE(UnmountTree(root).has_value());
}

TEST_F(RootfsTest, BusyMountGoesLazily) {
  const std::string root = MakeDir("root");
  const std::string source = MakeDir("source");
  MakeFile("source/f", "x");
  ASSERT_TRUE(MountRootfs({{"bind", source, "", {"bind"}}}, root, Nothing).has_value());
  const auto held = Open(root + "/f", O_RDONLY);
  ASSERT_TRUE(held.has_value());
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_TRUE(MountsBelow(root)->empty());
}

TEST_F(RootfsTest, LoopMountedImage) {
  const std::string image = MakeFile("image.ext4", "");
  ASSERT_EQ(truncate(image.c_str(), 8 << 20), 0);
  auto made = RunCommand(SpawnOptions{{"/sbin/mke2fs", "-q", "-F", image}, {}, {}, {}}, 20000);
  if (!made.has_value() || made->status.AsShell() != 0 ||
      access("/dev/loop-control", R_OK | W_OK) != 0) {
    GTEST_SKIP() << "no mke2fs or no loop devices here";
  }
  const std::string root = MakeDir("root");
  auto result = MountRootfs({{"ext4", image, "", {"loop", "ro"}}}, root, Nothing);
  if (!result.has_value() && result.error().message().find("loop") != std::string::npos) {
    GTEST_SKIP() << result.error().message();
  }
  ASSERT_TRUE(result.has_value()) << result.error().message();
  EXPECT_EQ(access((root + "/lost+found").c_str(), F_OK), 0);
  EXPECT_TRUE(UnmountTree(root).has_value());
}

TEST_F(RootfsTest, UnmountingBelowASymlinkedDirectory) {
  MakeDir("real");
  MakeDir("real/root");
  ASSERT_EQ(symlink("real", (dir_ + "/link").c_str()), 0);
  const std::string source = MakeDir("source");
  const std::string root = dir_ + "/link/root";
  ASSERT_TRUE(MountRootfs({{"bind", source, "", {"rbind", "rw"}}}, root, Nothing).has_value());
  EXPECT_EQ(*MountsBelow(root), std::vector<std::string>{dir_ + "/real/root"});
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_TRUE(MountsBelow(dir_ + "/real/root")->empty());
  EXPECT_TRUE(UnmountTree(dir_ + "/absent/root").has_value());
}

TEST_F(RootfsTest, SymlinkForARootIsRefused) {
  const std::string source = MakeDir("source");
  const std::string elsewhere = MakeDir("elsewhere");
  ASSERT_EQ(symlink("elsewhere", (dir_ + "/root").c_str()), 0);
  EXPECT_FALSE(MountRootfs({{"bind", source, "", {"bind"}}}, dir_ + "/root", Nothing).has_value());
  EXPECT_TRUE(MountsBelow(elsewhere)->empty());
}

TEST_F(RootfsTest, UnmountingABindLeavesWhatIsMountedInItsSource) {
  const std::string root = MakeDir("root");
  const std::string source = MakeDir("source");
  ASSERT_EQ(mount("tmpfs", source.c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_EQ(mount("none", source.c_str(), nullptr, MS_SHARED, nullptr), 0);
  MakeDir("source/sub");
  ASSERT_EQ(mount("tmpfs", (source + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  ASSERT_TRUE(MountRootfs({{"bind", source, "", {"rbind", "rw"}}}, root, Nothing).has_value());
  EXPECT_EQ(MountsBelow(root)->size(), 2U);
  EXPECT_TRUE(UnmountTree(root).has_value());
  EXPECT_EQ(MountsBelow(source)->size(), 2U);
}

TEST_F(RootfsTest, RootItselfIsNeverUnmounted) {
  EXPECT_FALSE(UnmountTree("/").has_value());
  EXPECT_FALSE(UnmountTree("//").has_value());
  EXPECT_FALSE(UnmountTree("/tmp/..").has_value());
  EXPECT_FALSE(UnmountTree("").has_value());
}

}  // namespace
}  // namespace wyvern::runtime
