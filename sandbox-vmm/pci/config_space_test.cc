#include "pci/config_space.h"

#include <gtest/gtest.h>

#include "base/endian.h"

namespace wyvern::pci {
namespace {

constexpr Identity kIdentity = {.vendor = 0x1af4,
                                .device = 0x1042,
                                .revision = 1,
                                .class_code = 0x018000,
                                .subsystem_vendor = 0x1af4,
                                .subsystem = 0x40};

void Write32(ConfigSpace& config, uint16_t offset, uint32_t value) {
  const Le32 wire(value);
  config.Write(offset, std::as_bytes(std::span(&wire, 1)));
}

TEST(ConfigSpaceTest, IdentityIsReadOnly) {
  ConfigSpace config(kIdentity);
  for (uint16_t offset : {0x00, 0x08, 0x2c}) {
    const uint32_t before = config.Get32(offset);
    Write32(config, offset, 0xffffffff);
    EXPECT_EQ(config.Get32(offset), before);
  }
  EXPECT_EQ(config.Get32(0), 0x10421af4U);
  EXPECT_EQ(config.Get32(8), 0x01800001U);
}

TEST(ConfigSpaceTest, SizingA64BitBarTellsItsSize) {
  ConfigSpace config(kIdentity);
  config.AddMemoryBar(0, 0x8000);
  Write32(config, kBar0, 0xffffffff);
  Write32(config, kBar0 + 4, 0xffffffff);
  EXPECT_EQ(config.Get32(kBar0), 0xffff8004U);
  EXPECT_EQ(config.Get32(kBar0 + 4), 0xffffffffU);
  Write32(config, kBar0, 0xe0000000);
  Write32(config, kBar0 + 4, 1);
  EXPECT_EQ(config.bar_address(0), 0x1e0000000U);
}

TEST(ConfigSpaceTest, UnusedBarsReadAsZeroAfterSizing) {
  ConfigSpace config(kIdentity);
  Write32(config, kBar0 + 8, 0xffffffff);
  EXPECT_EQ(config.Get32(kBar0 + 8), 0U);
}

TEST(ConfigSpaceTest, CapabilitiesAreLinkedInOrder) {
  ConfigSpace config(kIdentity);
  const std::array<std::byte, 3> body{std::byte{1}, std::byte{2}, std::byte{3}};
  const uint8_t first = config.AddCapability(9, body);
  const uint8_t second = config.AddCapability(0x11, body);
  EXPECT_NE(config.Get16(kStatus) & 0x10, 0);
  EXPECT_EQ(config.Get8(kCapabilityPointer), first);
  EXPECT_EQ(config.Get8(first), 9);
  EXPECT_EQ(config.Get8(static_cast<uint16_t>(first + 1)), second);
  EXPECT_EQ(config.Get8(static_cast<uint16_t>(second + 1)), 0);
  EXPECT_EQ(second % 4, 0);
}

TEST(ConfigSpaceTest, OnlyMaskedBitsOfACapabilityChange) {
  ConfigSpace config(kIdentity);
  const std::array<std::byte, 2> body{std::byte{0x05}, std::byte{0}};
  const std::array<std::byte, 2> mask{std::byte{0}, std::byte{0xc0}};
  const uint8_t at = config.AddCapability(0x11, body, mask);
  const std::array<std::byte, 4> ones{std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                                      std::byte{0xff}};
  config.Write(at, ones);
  EXPECT_EQ(config.Get8(at), 0x11);
  EXPECT_EQ(config.Get16(static_cast<uint16_t>(at + 2)), 0xc005);
}

}  // namespace
}  // namespace wyvern::pci
