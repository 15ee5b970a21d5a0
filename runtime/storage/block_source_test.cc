#include "storage/block_source.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/sysmacros.h>

#include <thread>

#include "storage/loop.h"
#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

using testing::HasSubstr;

class BlockSourceTest : public PrivateMountsTest {
 protected:
  std::string MakeImage(const std::string& name, off_t size = 1 << 20) const {
    std::string path = MakeFile(name, "");
    EXPECT_EQ(truncate(path.c_str(), size), 0);
    return path;
  }

  static Code CodeOf(const Result<UniqueFd>& result) {
    return result.has_value() ? Code::kOk : result.error().code();
  }

  static int AccessMode(const Result<UniqueFd>& fd) {
    return fcntl(fd->get(), F_GETFL) & O_ACCMODE;
  }
};

TEST_F(BlockSourceTest, WhatIsNeitherIsRefusedUnopened) {
  ASSERT_EQ(mkfifo((dir_ + "/fifo").c_str(), 0600), 0);
  for (const std::string& path : {dir_, dir_ + "/fifo", std::string("/dev/null")}) {
    const auto fd = OpenBlockSource(path, false);
    EXPECT_EQ(CodeOf(fd), Code::kInvalidArgument) << path;
  }
  EXPECT_EQ(CodeOf(OpenBlockSource(dir_ + "/absent", false)), Code::kNotFound);
}

TEST_F(BlockSourceTest, ImageHasWholeSectors) {
  EXPECT_EQ(CodeOf(OpenBlockSource(MakeImage("empty", 0), false)), Code::kInvalidArgument);
  const auto odd = OpenBlockSource(MakeImage("odd", 1000), false);
  ASSERT_EQ(CodeOf(odd), Code::kInvalidArgument);
  EXPECT_THAT(odd.error().message(), HasSubstr("1000 bytes"));
}

TEST_F(BlockSourceTest, OpenedAsItWillBeUsed) {
  const std::string image = MakeImage("image");
  {
    const auto fd = OpenBlockSource(image, false);
    ASSERT_TRUE(fd.has_value()) << fd.error().message();
    EXPECT_EQ(AccessMode(fd), O_RDWR);
  }
  const auto fd = OpenBlockSource(image, true);
  ASSERT_TRUE(fd.has_value());
  EXPECT_EQ(AccessMode(fd), O_RDONLY);
}

TEST_F(BlockSourceTest, OneWriterOrManyReaders) {
  const std::string image = MakeImage("image");
  {
    auto writer = OpenBlockSource(image, false);
    ASSERT_TRUE(writer.has_value());
    // Whoever it was given to has it, also when we have closed it.
    const auto given = writer->Duplicate();
    writer->Reset();
    const auto second = OpenBlockSource(image, false);
    ASSERT_EQ(CodeOf(second), Code::kFailedPrecondition);
    EXPECT_THAT(second.error().message(), HasSubstr(image));
    EXPECT_EQ(CodeOf(OpenBlockSource(image, true)), Code::kFailedPrecondition);
  }
  const auto reader = OpenBlockSource(image, true);
  EXPECT_TRUE(reader.has_value());
  EXPECT_TRUE(OpenBlockSource(image, true).has_value());
  EXPECT_EQ(CodeOf(OpenBlockSource(image, false)), Code::kFailedPrecondition);
}

TEST_F(BlockSourceTest, AwaitsWhoIsAboutToLetGo) {
  const std::string image = MakeImage("image");
  auto writer = OpenBlockSource(image, false);
  ASSERT_TRUE(writer.has_value());
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    writer->Reset();
  });
  EXPECT_TRUE(OpenBlockSource(image, false).has_value());
  later.join();
}

TEST_F(BlockSourceTest, LoopDeviceOfTheHostIsFound) {
  const std::string image = MakeImage("image");
  {
    const auto loop = LoopDevice::Attach(image, /*read_only=*/true);
    if (!loop.has_value()) {
      GTEST_SKIP() << loop.error().message();
    }
    const auto writer = OpenBlockSource(image, false);
    ASSERT_EQ(CodeOf(writer), Code::kFailedPrecondition);
    EXPECT_THAT(writer.error().message(), HasSubstr(loop->path()));
    EXPECT_TRUE(OpenBlockSource(image, true).has_value());
  }
  {
    const auto loop = LoopDevice::Attach(image, /*read_only=*/false);
    ASSERT_TRUE(loop.has_value());
    EXPECT_EQ(CodeOf(OpenBlockSource(image, true)), Code::kFailedPrecondition);
  }
  EXPECT_TRUE(OpenBlockSource(image, false).has_value());
}

TEST_F(BlockSourceTest, BlockDeviceIsClaimedByItsWriter) {
  const auto loop = LoopDevice::Attach(MakeImage("image"), /*read_only=*/false);
  if (!loop.has_value()) {
    GTEST_SKIP() << loop.error().message();
  }
  struct stat info = {};
  ASSERT_EQ(stat(loop->path().c_str(), &info), 0);
  {
    const auto writer = OpenBlockDevice(info.st_rdev, false);
    ASSERT_TRUE(writer.has_value()) << writer.error().message();
    EXPECT_FALSE(Open(loop->path(), O_RDWR | O_EXCL).has_value());
    EXPECT_EQ(CodeOf(OpenBlockSource(loop->path(), true)), Code::kFailedPrecondition);
  }
  const auto reader = OpenBlockSource(loop->path(), true);
  ASSERT_TRUE(reader.has_value());
  EXPECT_TRUE(OpenBlockSource(loop->path(), true).has_value());
}

TEST_F(BlockSourceTest, NumberOfNoDeviceIsNotFound) {
  const auto fd = OpenBlockDevice(makedev(4000, 1), false);
  ASSERT_EQ(CodeOf(fd), Code::kNotFound);
  EXPECT_THAT(fd.error().message(), HasSubstr("4000:1"));
}

TEST(DiskMountTest, OnlyASingleFileSystemOnTheRootItself) {
  const std::vector<std::string> ours = {"ext4", "xfs"};
  // containerd 1.7, blockfile and devmapper.
  EXPECT_NE(DiskMountOf({{"ext4", "/s/1", "", {"loop", "rw"}}}, ours), nullptr);
  EXPECT_NE(DiskMountOf({{"xfs", "/dev/mapper/p-snap-1", "", {"nouuid"}}}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({{"ext4", "/s/1", "", {"loop"}}}, {}), nullptr);
  EXPECT_EQ(DiskMountOf({{"erofs", "/s/1", "", {"loop"}}}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({{"ext4", "/s/1", "below", {"loop"}}}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({{"ext4", "/s/1", "", {"bind"}}}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({{"xfs", "/s/1", "", {"ro", "logdev=/dev/sdb"}}}, ours), nullptr);
  EXPECT_EQ(DiskMountOf({{"ext4", "/s/1", "", {}}, {"bind", "/x", "y", {"bind"}}}, ours), nullptr);
}

}  // namespace
}  // namespace wyvern::runtime
