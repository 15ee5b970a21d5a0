#include "volume/direct_volumes.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"
#include "base/testing/must.h"

namespace wyvern::runtime {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kInfo[] =
    R"({"volume-type":"block","device":"/dev/vdb","fstype":"ext4","metadata":{},"options":["noatime"]})";

std::string Refusal(const std::string& text) {
  const auto parsed = ParseDirectVolume(text);
  return parsed.has_value() ? "" : parsed.error().message();
}

TEST(MountInfoTest, WhatIsNotOneIsRefused) {
  for (const char* text :
       {"", "{", "[]", "1", "null", "\"x\"", "{\"volume-type\":\"block\"}", "\xff{}"}) {
    EXPECT_NE(Refusal(text), "") << text;
  }
  EXPECT_THAT(Refusal(R"({"volume-type":"spdkvol","device":"/d","fstype":"ext4"})"),
              HasSubstr("volume-type: must be \"block\""));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"d","fstype":"ext4"})"),
              HasSubstr("device: must be the absolute path"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":7,"fstype":"ext4"})"),
              HasSubstr("device: must be a string"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"/d\u0000","fstype":"ext4"})"),
              HasSubstr("device"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"/d","fstype":"nfs"})"),
              HasSubstr("fstype: must be ext2"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"/d","fstype":"ext4","options":"ro"})"),
              HasSubstr("options: must be an array"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"/d","fstype":"ext4","options":["a,b"]})"),
              HasSubstr("options: each is one word"));
  EXPECT_THAT(Refusal(R"({"volume-type":"block","device":"/d","fstype":"ext4","other":1})"),
              HasSubstr("other: unknown"));
  EXPECT_THAT(
      Refusal(
          R"({"volume-type":"block","device":"/d","fstype":"ext4","metadata":{"fsGroup":"1000"}})"),
      HasSubstr("metadata: 'fsGroup' is not supported"));
  EXPECT_THAT(Refusal(std::string(kMaxDirectVolume + 1, ' ')), HasSubstr("larger than"));
}

TEST(MountInfoTest, KatasFormIsRead) {
  const DirectVolume volume = Must(ParseDirectVolume(kInfo));
  EXPECT_EQ(volume.device, "/dev/vdb");
  EXPECT_EQ(volume.filesystem, "ext4");
  EXPECT_THAT(volume.options, ElementsAre("noatime"));
  EXPECT_FALSE(volume.read_only);
  EXPECT_TRUE(
      Must(
          ParseDirectVolume(
              R"({"volume-type":"block","device":"/d","fstype":"xfs","metadata":null,"options":["ro"]})"))
          .read_only);
  EXPECT_TRUE(Must(ParseDirectVolume(
                       R"({"volume-type":"block","device":"/d","fstype":"erofs","options":null})"))
                  .read_only);
}

TEST(MountInfoTest, KeyIsBase64OfThePath) {
  EXPECT_EQ(Must(DirectVolumeKey("/a")), "L2E=");
  EXPECT_EQ(Must(DirectVolumeKey("/kubelet/a/x>>?")), "L2t1YmVsZXQvYS94Pj4_");
  EXPECT_EQ(Must(DirectVolumeKey("/" + std::string(188, 'x'))).size(), 252U);
  for (const std::string& path :
       {std::string(), std::string("a"), "/" + std::string(189, 'x'), std::string("/a\0b", 4)}) {
    EXPECT_FALSE(DirectVolumeKey(path).has_value()) << path;
  }
}

class DirectVolumesTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/wyvern-direct-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    // Nobody opens it: a number of no device will do.
    device_ = dir_ + "/device";
    if (mknod(device_.c_str(), S_IFBLK | 0600, makedev(7, 250)) != 0) {
      GTEST_SKIP() << "needs root, for a device node";
    }
  }

  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string Info(const std::string& device) const {
    return R"({"volume-type":"block","device":")" + device + R"(","fstype":"ext4"})";
  }

  std::string dir_, device_;
};

TEST_F(DirectVolumesTest, ComesAndGoes) {
  const DirectVolumes volumes(dir_ + "/state");
  EXPECT_FALSE(Must(volumes.Find("/v")).has_value());
  EXPECT_EQ(volumes.Remove("/v").error().code(), Code::kNotFound);
  ASSERT_TRUE(volumes.Add("/v", Info(device_)).has_value());
  EXPECT_EQ(volumes.Add("/v", Info(device_)).error().code(), Code::kAlreadyExists);
  EXPECT_EQ(Must(volumes.Find("/v"))->device, device_);
  EXPECT_FALSE(Must(volumes.Find("/v/below")).has_value());
  ASSERT_TRUE(volumes.Remove("/v").has_value());
  EXPECT_FALSE(Must(volumes.Find("/v")).has_value());
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/state/direct-volumes")) << "nothing is left";
}

TEST_F(DirectVolumesTest, DevicesThatAreNoneAreRefusedAndLeaveNothing) {
  const DirectVolumes volumes(dir_);
  EXPECT_EQ(volumes.Add("/v", Info(dir_ + "/absent")).error().code(), Code::kNotFound);
  EXPECT_EQ(volumes.Add("/v", Info("/dev/null")).error().code(), Code::kFailedPrecondition);
  EXPECT_EQ(volumes.Add("/v", "{}").error().code(), Code::kInvalidArgument);
  EXPECT_EQ(volumes.Add("v", Info(device_)).error().code(), Code::kInvalidArgument);
  EXPECT_FALSE(Must(volumes.Find("/v")).has_value());
}

TEST_F(DirectVolumesTest, DamagedRegistrationIsAnErrorNotAShare) {
  const DirectVolumes volumes(dir_);
  ASSERT_TRUE(volumes.Add("/v", Info(device_)).has_value());
  const std::string file =
      dir_ + "/direct-volumes/" + Must(DirectVolumeKey("/v")) + "/mountInfo.json";
  ASSERT_TRUE(WriteFile(file, "{\"device\":").has_value());
  EXPECT_THAT(volumes.Find("/v").error().message(), HasSubstr("direct volume /v"));
  ASSERT_TRUE(WriteFile(file, std::string(kMaxDirectVolume + 10, ' ')).has_value());
  EXPECT_FALSE(volumes.Find("/v").has_value());
  ASSERT_TRUE(unlink(device_.c_str()) == 0 && WriteFile(file, Info(device_)).has_value());
  EXPECT_EQ(volumes.Find("/v").error().code(), Code::kNotFound) << "its device is gone";
}

}  // namespace
}  // namespace wyvern::runtime
