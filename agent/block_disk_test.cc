#include "agent/block_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "base/fd.h"
#include "base/subprocess.h"

namespace wyvern::agent {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

class BlockDiskTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/wyvern-disk-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  void AddToSysfs(const std::string& name, const std::string& serial, const std::string& numbers,
                  const std::string& sectors = "8\n") const {
    const std::string directory = dir_ + "/block/" + name;
    std::filesystem::create_directories(directory);
    for (const auto& [file, text] :
         {std::pair("serial", serial), std::pair("dev", numbers), std::pair("size", sectors),
          std::pair("ro", std::string("1\n"))}) {
      ASSERT_TRUE(WriteFile(directory + "/" + file, text).has_value());
    }
  }

  std::string dir_;
};

TEST(SerialTest, OnlyWhatIsSafeInAPath) {
  EXPECT_TRUE(IsSerial("c0-root"));
  EXPECT_TRUE(IsSerial("c4294967295-b64_A"));
  for (const char* bad : {"", ".", "..", "a/b", "a b", "a\n", "123456789012345678901"}) {
    EXPECT_FALSE(IsSerial(bad)) << bad;
  }
}

TEST(MountFlagsTest, NothingThatBindsOrMoves) {
  EXPECT_TRUE(AreMountFlags(0));
  EXPECT_TRUE(AreMountFlags(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME));
  for (const uint64_t bad : {uint64_t{MS_BIND}, uint64_t{MS_REMOUNT}, uint64_t{MS_MOVE},
                             uint64_t{MS_SHARED}, uint64_t{MS_REC}, uint64_t{1} << 40U}) {
    EXPECT_FALSE(AreMountFlags(bad)) << bad;
  }
}

TEST(BlockFilesystemsTest, ThoseWithoutNodev) {
  EXPECT_THAT(BlockFilesystems("nodev\tsysfs\n\text4\nnodev\tproc\n\terofs\n\n\t\n"),
              ElementsAre("ext4", "erofs"));
  EXPECT_THAT(BlockFilesystems(""), ElementsAre());
  std::string many;
  for (int i = 0; i < 100; ++i) {
    many += fmt::format("\tfs{}\n", i);
  }
  EXPECT_EQ(BlockFilesystems(many).size(), 64U);
}

TEST_F(BlockDiskTest, FoundByTheWholeSerial) {
  AddToSysfs("vda", "c0-root\n", "254:0\n");
  AddToSysfs("vdb", "c0-root2\n", "254:16\n", "16384\n");
  AddToSysfs("loop0", "\n", "7:0\n");
  const auto found = FindDisk(dir_, "c0-root2");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->name, "vdb");
  EXPECT_EQ(found->major, 254U);
  EXPECT_EQ(found->minor, 16U);
  EXPECT_EQ(found->bytes, 8U << 20U);
  EXPECT_TRUE(found->read_only);
  EXPECT_FALSE(FindDisk(dir_, "c0-roo").has_value());
  EXPECT_FALSE(FindDisk(dir_ + "/absent", "c0-root").has_value());
}

TEST_F(BlockDiskTest, OneThatIsHalfThereIsNone) {
  AddToSysfs("vda", "c0-root", "254");
  EXPECT_FALSE(FindDisk(dir_, "c0-root").has_value());
  AddToSysfs("vda", "c0-root", "254:0", "-1");
  EXPECT_FALSE(FindDisk(dir_, "c0-root").has_value());
}

TEST_F(BlockDiskTest, AwaitedUntilTheDeadline) {
  const auto missing = AwaitDisk(dir_, "c0-root", milliseconds(30));
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  std::thread later([this] {
    std::this_thread::sleep_for(milliseconds(30));
    AddToSysfs("vda", "c0-root", "254:0");
  });
  EXPECT_TRUE(AwaitDisk(dir_, "c0-root", milliseconds(20000)).has_value());
  later.join();
}

// Real ones, by loop devices, in a mount namespace of the test.
class MountedDiskTest : public BlockDiskTest {
 protected:
  void SetUp() override {
    BlockDiskTest::SetUp();
    static const bool entered = geteuid() == 0 && unshare(CLONE_NEWNS) == 0 &&
                                mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
    if (!entered) {
      GTEST_SKIP() << "mounting needs root";
    }
    image_ = dir_ + "/image";
    ASSERT_TRUE(WriteFile(image_, "").has_value());
    ASSERT_EQ(truncate(image_.c_str(), 16 << 20), 0);
    if (!Run({"/sbin/mke2fs", "-q", "-F", "-t", "ext4", image_})) {
      GTEST_SKIP() << "no mke2fs here";
    }
  }

  void TearDown() override {
    (void)umount2(Target().c_str(), MNT_DETACH);
    if (!node_.name.empty()) {
      (void)Run({"/sbin/losetup", "-d", "/dev/" + node_.name});
    }
    BlockDiskTest::TearDown();
  }

  std::string Run(const std::vector<std::string>& argv, int* code) {
    auto done =
        RunCommand(SpawnOptions{argv, {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, {}, {}}, 20000);
    *code = done.has_value() ? done->status.AsShell() : -1;
    return done.has_value() ? done->out : "";
  }

  bool Run(const std::vector<std::string>& argv) {
    int code = 0;
    (void)Run(argv, &code);
    return code == 0;
  }

  // Skips the test when there are no loop devices.
  void Attach(bool read_only) {
    std::vector<std::string> argv = {"/sbin/losetup", "-f", "--show", image_};
    if (read_only) {
      argv.insert(argv.begin() + 1, "-r");
    }
    int code = 0;
    std::string path = Run(argv, &code);
    while (!path.empty() && path.back() == '\n') {
      path.pop_back();
    }
    struct stat info = {};
    if (code != 0 || stat(path.c_str(), &info) != 0) {
      GTEST_SKIP() << "no loop devices here";
    }
    node_.name = path.substr(5);
    node_.major = major(info.st_rdev);
    node_.minor = minor(info.st_rdev);
    node_.read_only = read_only;
  }

  std::string Target() const { return dir_ + "/mounted"; }

  DiskLeft Leave() const { return LeaveDisk(node_.name, node_.major, node_.minor, Target()); }

  std::string image_;
  DiskNode node_;
};

TEST_F(MountedDiskTest, WrittenBackAndFreeAfterwards) {
  Attach(/*read_only=*/false);
  const auto mounted = MountDisk(node_, {"ext4", MS_NODEV, "", Target()});
  ASSERT_TRUE(mounted.has_value()) << mounted.error().message();
  EXPECT_FALSE(*mounted);
  ASSERT_TRUE(WriteFile(Target() + "/kept", "text").has_value());
  const DiskLeft left = Leave();
  EXPECT_FALSE(left.in_use);
  EXPECT_EQ(left.lost, "");
  EXPECT_NE(access(Target().c_str(), F_OK), 0);
  EXPECT_TRUE(Open("/dev/" + node_.name, O_RDWR | O_EXCL).has_value());
  int code = 0;
  EXPECT_THAT(Run({"/sbin/debugfs", "-R", "cat /kept", image_}, &code), HasSubstr("text"));
}

TEST_F(MountedDiskTest, WhoeverHoldsItIsTold) {
  Attach(/*read_only=*/false);
  ASSERT_TRUE(MountDisk(node_, {"ext4", 0, "", Target()}).has_value());
  const auto held = Open(Target(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(held.has_value());
  EXPECT_TRUE(Leave().in_use);
  EXPECT_NE(access(Target().c_str(), F_OK), 0);
}

TEST_F(MountedDiskTest, DirtyJournalOfAReadOnlyDiskIsLeftAlone) {
  Attach(/*read_only=*/false);
  ASSERT_TRUE(MountDisk(node_, {"ext4", 0, "", Target()}).has_value());
  ASSERT_TRUE(WriteFile(Target() + "/file", "text").has_value());
  sync();
  // As a snapshot of a disk that is in use.
  const std::string copy = dir_ + "/copy";
  std::filesystem::copy_file(image_, copy);
  (void)Leave();
  ASSERT_TRUE(Run({"/sbin/losetup", "-d", "/dev/" + node_.name}));
  image_ = copy;
  Attach(/*read_only=*/true);
  const auto mounted = MountDisk(node_, {"ext4", MS_RDONLY, "", Target()});
  ASSERT_TRUE(mounted.has_value()) << mounted.error().message();
  EXPECT_TRUE(*mounted);
  EXPECT_EQ(Leave().lost, "");
}

TEST_F(MountedDiskTest, WhatTheKernelDoesNotTakeIsTyped) {
  Attach(/*read_only=*/false);
  const auto unknown = MountDisk(node_, {"nosuchfs", 0, "", Target()});
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code(), Code::kUnimplemented);
  const auto option = MountDisk(node_, {"ext4", 0, "nosuchoption", Target()});
  ASSERT_FALSE(option.has_value());
  EXPECT_EQ(option.error().code(), Code::kFailedPrecondition);
  EXPECT_NE(access(Target().c_str(), F_OK), 0);
}

TEST_F(MountedDiskTest, DiskThatIsGoneIsLeftAtOnce) {
  Attach(/*read_only=*/false);
  const DiskLeft left = LeaveDisk("absent", 1, 1, "");
  EXPECT_FALSE(left.in_use);
  EXPECT_EQ(left.lost, "");
}

TEST(DiskUsageTest, UsageIsSixNumbersAndGrowthOfAnotherFileSystemIsRefused) {
  const auto usage = UsageOf("/proc");
  ASSERT_TRUE(usage.has_value());
  EXPECT_EQ(std::count(usage->begin(), usage->end(), ' '), 5) << *usage;
  EXPECT_FALSE(UsageOf("/absent").has_value());
  EXPECT_EQ(GrowFilesystem("/proc", 1 << 20).error().code(), Code::kUnimplemented);
  EXPECT_EQ(GrowFilesystem("/absent", 1 << 20).error().code(), Code::kNotFound);
}

}  // namespace
}  // namespace wyvern::agent
