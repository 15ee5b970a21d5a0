#include "agent/device_guard.h"

#include <gtest/gtest.h>

namespace wyvern::agent {
namespace {

constexpr char kDevices[] =
    "Character devices:\n  1 mem\n 10 misc\n244 virtio-portsdev2\n243 virtio-portsdev\n\n"
    "Block devices:\n254 virtblk\n 99 onlyblock\n";

TEST(CharacterMajorTest, OfTheNamedDriverOnly) {
  EXPECT_EQ(CharacterMajor(kDevices, "virtio-portsdev"), 243U);
  EXPECT_EQ(CharacterMajor(kDevices, "mem"), 1U);
  EXPECT_EQ(CharacterMajor(kDevices, "virtio"), std::nullopt);
  EXPECT_EQ(CharacterMajor(kDevices, "onlyblock"), std::nullopt);
  EXPECT_EQ(CharacterMajor("", "mem"), std::nullopt);
  EXPECT_EQ(CharacterMajor("Character devices:\n\n   \nx mem", "mem"), std::nullopt);
}

}  // namespace
}  // namespace wyvern::agent
