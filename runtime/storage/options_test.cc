#include <gtest/gtest.h>
#include <sys/mount.h>

#include "storage/rootfs.h"

namespace wyvern::runtime {
namespace {

TEST(MountOptionsTest, OverlayLayersAreTakenApart) {
  const ParsedOptions options = ParseMountOptions(
      {"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b\\:c:/d", "ro", "nosuid"}, true);
  EXPECT_EQ(options.lower_dirs, (std::vector<std::string>{"/a", "/b:c", "/d"}));
  EXPECT_EQ(options.upper_dir, "/u");
  EXPECT_EQ(options.work_dir, "/w");
  EXPECT_EQ(options.data, "index=off");
  EXPECT_EQ(options.flags, static_cast<unsigned long>(MS_RDONLY | MS_NOSUID));
}

TEST(MountOptionsTest, LaterWordsWin) {
  EXPECT_EQ(ParseMountOptions({"ro", "rw"}, false).flags, 0U);
  EXPECT_EQ(ParseMountOptions({"rw", "ro"}, false).flags, static_cast<unsigned long>(MS_RDONLY));
}

TEST(MountOptionsTest, IdMapsAreNotData) {
  const ParsedOptions parsed =
      ParseMountOptions({"index=off", "uidmap=0:1:2,5:6:7", "gidmap=0:3:4"}, true);
  EXPECT_EQ(parsed.users, "0:1:2,5:6:7");
  EXPECT_EQ(parsed.groups, "0:3:4");
  EXPECT_EQ(parsed.data, "index=off");
}

TEST(MountOptionsTest, LoopAndPropagationAreNotData) {
  const ParsedOptions options =
      ParseMountOptions({"loop", "rprivate", "", "size=1m", "mode=0755"}, false);
  EXPECT_TRUE(options.loop);
  EXPECT_EQ(options.propagation, static_cast<unsigned long>(MS_PRIVATE | MS_REC));
  EXPECT_EQ(options.data, "size=1m,mode=0755");
}

TEST(MountOptionsTest, LowerdirIsDataForOthers) {
  EXPECT_EQ(ParseMountOptions({"lowerdir=/a"}, false).data, "lowerdir=/a");
}

}  // namespace
}  // namespace wyvern::runtime
