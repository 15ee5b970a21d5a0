#include "volume/host_volume.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "storage/testing/private_mounts.h"

namespace wyvern::runtime {
namespace {

using Kind = HostVolume::Kind;

TEST(HostVolumeTest, VolumesOfFilesAreKnownByTheirPath) {
  const std::string pod = "/var/lib/kubelet/pods/1-2/volumes/kubernetes.io~";
  for (const char* name :
       {"configmap/c", "secret/s", "projected/kube-api-access-x", "downward-api/d"}) {
    EXPECT_EQ(LookAtVolume(pod + name).kind, Kind::kFiles) << name;
  }
  for (const char* name :
       {"configmap/", "configmap/c/key", "configmap/..", "csi/v", "empty-dir/e"}) {
    EXPECT_EQ(LookAtVolume(pod + name).kind, Kind::kShare) << name;
  }
  EXPECT_EQ(LookAtVolume("/etc/kubernetes.io~configmap/c").kind, Kind::kShare);
}

class EmptyDirTest : public PrivateMountsTest {
 protected:
  void SetUp() override {
    PrivateMountsTest::SetUp();
    if (dir_.empty()) {
      return;
    }
    pod_ = dir_ + "/pods/1";
    volume_ = pod_ + "/volumes/kubernetes.io~empty-dir/cache";
    std::filesystem::create_directories(volume_);
  }

  void MountVolume() const {
    ASSERT_EQ(mount("tmpfs", volume_.c_str(), "tmpfs", 0, "size=1m,mode=2777,gid=4"), 0);
  }

  std::string pod_;
  std::string volume_;
};

TEST_F(EmptyDirTest, OneThatIsNoMountIsAShareEvenOnATmpfs) {
  EXPECT_EQ(LookAtVolume(volume_).kind, Kind::kShare);
  EXPECT_EQ(LookAtVolume(volume_ + "/none").kind, Kind::kShare);
}

TEST_F(EmptyDirTest, OneInMemoryHasSizeAndOwner) {
  MountVolume();
  const HostVolume volume = LookAtVolume(volume_);
  EXPECT_EQ(volume.kind, Kind::kMemory);
  EXPECT_EQ(volume.bytes, 1U << 20);
  EXPECT_EQ(volume.part, "");
  EXPECT_EQ(volume.owner.mode, 02777U);
  EXPECT_EQ(volume.top.gid, 4U);
  // A directory in it is no volume of its own.
  std::filesystem::create_directory(volume_ + "/d");
  EXPECT_EQ(LookAtVolume(volume_ + "/d").kind, Kind::kShare);
}

TEST_F(EmptyDirTest, ASubPathIsAPartOfItsVolume) {
  MountVolume();
  std::filesystem::create_directories(volume_ + "/a b/c");
  ASSERT_EQ(chmod((volume_ + "/a b/c").c_str(), 0700), 0);
  const std::string sub = pod_ + "/volume-subpaths/cache/main/0";
  std::filesystem::create_directories(sub);
  ASSERT_EQ(mount((volume_ + "/a b/c").c_str(), sub.c_str(), nullptr, MS_BIND, nullptr), 0);
  const HostVolume part = LookAtVolume(sub);
  EXPECT_EQ(part.kind, Kind::kMemory);
  EXPECT_EQ(part.part, "a b/c");
  EXPECT_EQ(part.key, LookAtVolume(volume_).key);
  EXPECT_EQ(part.owner.mode, 0700U);
  EXPECT_EQ(part.top.mode, 02777U);
}

TEST_F(EmptyDirTest, TwoVolumesHaveTwoKeysAndASubPathOfADiskIsAShare) {
  MountVolume();
  const std::string other = pod_ + "/volumes/kubernetes.io~empty-dir/other";
  std::filesystem::create_directories(other);
  ASSERT_EQ(mount("tmpfs", other.c_str(), "tmpfs", 0, nullptr), 0);
  EXPECT_NE(LookAtVolume(volume_).key, LookAtVolume(other).key);
  const std::string sub = pod_ + "/volume-subpaths/disk/main/0";
  std::filesystem::create_directories(sub);
  std::filesystem::create_directories(dir_ + "/elsewhere");
  ASSERT_EQ(mount((dir_ + "/elsewhere").c_str(), sub.c_str(), nullptr, MS_BIND, nullptr), 0);
  EXPECT_EQ(LookAtVolume(sub).kind, Kind::kShare);
}

TEST_F(EmptyDirTest, HugePagesHaveTheirSize) {
  if (mount("hugetlbfs", volume_.c_str(), "hugetlbfs", 0, "pagesize=2M") != 0) {
    GTEST_SKIP() << "no hugetlbfs of 2 MiB here";
  }
  const HostVolume volume = LookAtVolume(volume_);
  EXPECT_EQ(volume.kind, Kind::kHugePages);
  EXPECT_EQ(volume.page_bytes, 2U << 20);
}

}  // namespace
}  // namespace wyvern::runtime
