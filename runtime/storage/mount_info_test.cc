#include "storage/mount_info.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace wyvern::runtime {
namespace {

TEST(MountInfoTest, FieldsAreThoseOfTheManualUnescaped) {
  const auto mounts = ParseMountInfo(
      "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n"
      "40 36 0:45 / /t rw - tmpfs tmpfs rw,size=64k\n");
  ASSERT_EQ(mounts.size(), 2U);
  EXPECT_EQ(mounts[0].id, 36U);
  EXPECT_EQ(mounts[0].device, "98:0");
  EXPECT_EQ(mounts[0].root, "/mnt1");
  EXPECT_EQ(mounts[0].point, "/mnt 2");
  EXPECT_EQ(mounts[0].type, "ext3");
  EXPECT_EQ(mounts[1].type, "tmpfs");
}

TEST(MountInfoTest, LinesThatAreCutAreLeftOut) {
  EXPECT_TRUE(ParseMountInfo("36 35 98:0 /\n36 35 98:0 / / rw master:1 -\nx\n\n").empty());
}

TEST(MountInfoTest, OursHasProc) {
  const auto mounts = ReadMountInfo();
  ASSERT_TRUE(mounts.has_value());
  EXPECT_TRUE(std::ranges::any_of(*mounts, [](const MountInfo& mount) {
    return mount.point == "/proc" && mount.type == "proc";
  }));
}

}  // namespace
}  // namespace wyvern::runtime
