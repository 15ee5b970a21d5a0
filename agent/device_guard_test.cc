#include "agent/device_guard.h"

#include <gtest/gtest.h>

namespace wyvern::agent {
namespace {

using Majors = std::set<uint32_t>;

TEST(DynamicMajorsTest, AreThoseOfOtherCharacterDevices) {
  constexpr char kDevices[] =
      "Character devices:\n  1 mem\n 10 misc\n233 low\n234 first\n243 virtio-portsdev\n"
      "244 virtio-portsdev2\n254 last\n255 high\n383 low\n384 more\n390 virtio-portsdev\n"
      "511 most\n512 high\n\n"
      "Block devices:\n254 virtblk\n 250 onlyblock\n";
  EXPECT_EQ(DynamicMajorsBut("virtio-portsdev", kDevices), (Majors{234, 244, 254, 384, 511}));
  EXPECT_EQ(DynamicMajorsBut("mem", ""), Majors());
  EXPECT_EQ(DynamicMajorsBut("mem", "Character devices:\n\n   \nx mem\n240"), Majors({240}));
}

}  // namespace
}  // namespace wyvern::agent
