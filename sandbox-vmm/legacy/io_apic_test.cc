#include "legacy/io_apic.h"

#include <vector>

#include <gtest/gtest.h>

namespace wyvern::legacy {
namespace {

constexpr uint64_t kMasked = 1U << 16U;
constexpr uint64_t kLevel = 1U << 15U;
constexpr uint64_t kRemoteIrr = 1U << 14U;

class IoApicTest : public testing::Test {
 protected:
  void Select(uint8_t index) { Write32(0, index); }

  void Write32(uint64_t offset, uint32_t value) {
    apic_.Write(offset, std::as_bytes(std::span(&value, 1)));
  }

  uint32_t Read32(uint64_t offset) {
    uint32_t value = 0;
    apic_.Read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  void SetEntry(uint8_t pin, uint64_t entry) {
    Select(static_cast<uint8_t>(0x11 + 2 * pin));
    Write32(0x10, static_cast<uint32_t>(entry >> 32U));
    Select(static_cast<uint8_t>(0x10 + 2 * pin));
    Write32(0x10, static_cast<uint32_t>(entry));
  }

  uint32_t Low(uint8_t pin) {
    Select(static_cast<uint8_t>(0x10 + 2 * pin));
    return Read32(0x10);
  }

  std::vector<irq::MsiMessage> sent_;
  std::vector<size_t> level_pins_;
  int publications_ = 0;
  IoApic apic_{[this](irq::MsiMessage message) { sent_.push_back(message); },
               [this](const IoApic::PinMessages& pins) {
                 ++publications_;
                 level_pins_.clear();
                 for (size_t i = 0; i < pins.size(); ++i) {
                   if (pins[i]) {
                     level_pins_.push_back(i);
                   }
                 }
               }};
};

TEST_F(IoApicTest, RegistersThatDoNotExistDoNothing) {
  for (const unsigned index : {0x03U, 0x0fU, 0x20U, 0x40U, 0xffU}) {
    Select(static_cast<uint8_t>(index));
    EXPECT_EQ(Read32(0x10), 0xffffffffU);
    Write32(0x10, 0);
  }
  for (const uint64_t offset : {0x04U, 0x14U, 0x20U, 0x40U, 0xffcU}) {
    Write32(offset, 0xffffffff);
    EXPECT_EQ(Read32(offset), 0U);
  }
  EXPECT_TRUE(sent_.empty());
}

TEST_F(IoApicTest, NarrowWindowWritesAreIgnored) {
  SetEntry(4, 0x31);
  Select(0x18);
  const std::byte byte{0x55};
  apic_.Write(0x10, std::span(&byte, 1));
  EXPECT_EQ(Low(4), 0x31U);
}

TEST_F(IoApicTest, ReadOnlyBitsStay) {
  SetEntry(3, kLevel | kRemoteIrr | 1U << 12U | 0x41);
  EXPECT_EQ(Low(3), kLevel | 0x41);
}

TEST_F(IoApicTest, PinsStartMasked) {
  for (uint8_t pin = 0; pin < IoApic::kPins; ++pin) {
    EXPECT_EQ(Low(pin), kMasked);
    apic_.Line(pin)->SetLevel(true);
  }
  EXPECT_TRUE(sent_.empty());
  Select(1);
  EXPECT_EQ(Read32(0x10), 0x00070011U);
}

TEST_F(IoApicTest, EdgePinSendsOncePerRise) {
  SetEntry(4, 0x0200000000000000ULL | 0x24);
  for (int i = 0; i < 3; ++i) {
    apic_.Line(4)->SetLevel(true);
    apic_.Line(4)->SetLevel(true);
    apic_.Line(4)->SetLevel(false);
  }
  ASSERT_EQ(sent_.size(), 3U);
  EXPECT_EQ(sent_[0].address, 0xfee02000U);
  EXPECT_EQ(sent_[0].data, 0x24U);
  EXPECT_EQ(publications_, 0);
}

TEST_F(IoApicTest, LevelPinWaitsForTheEndOfInterrupt) {
  SetEntry(7, kLevel | 0x55);
  EXPECT_EQ(level_pins_, std::vector<size_t>{7});
  apic_.Line(7)->SetLevel(true);
  apic_.Line(7)->SetLevel(false);
  apic_.Line(7)->SetLevel(true);
  EXPECT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].data, 0xc055U);
  EXPECT_NE(Low(7) & kRemoteIrr, 0U);
  apic_.EndOfInterrupt(0x54);  // another vector
  EXPECT_EQ(sent_.size(), 1U);
  apic_.EndOfInterrupt(0x55);  // still asserted: again
  EXPECT_EQ(sent_.size(), 2U);
  apic_.Line(7)->SetLevel(false);
  apic_.EndOfInterrupt(0x55);
  EXPECT_EQ(sent_.size(), 2U);
  EXPECT_EQ(Low(7) & kRemoteIrr, 0U);
}

TEST_F(IoApicTest, UnmaskingAnAssertedLevelPinDelivers) {
  SetEntry(7, kLevel | kMasked | 0x55);
  apic_.Line(7)->SetLevel(true);
  EXPECT_TRUE(sent_.empty());
  SetEntry(7, kLevel | 0x55);
  EXPECT_EQ(sent_.size(), 1U);
  SetEntry(7, kMasked);
  EXPECT_TRUE(level_pins_.empty());
}

TEST_F(IoApicTest, LevelPinMaskedInServiceStillGetsItsEndOfInterrupt) {
  SetEntry(7, kLevel | 0x55);
  apic_.Line(7)->SetLevel(true);
  SetEntry(7, kLevel | kMasked | 0x55);
  EXPECT_EQ(level_pins_, std::vector<size_t>{7});
  apic_.EndOfInterrupt(0x55);
  EXPECT_EQ(Low(7), kLevel | kMasked | 0x55);
  EXPECT_TRUE(level_pins_.empty());
  EXPECT_EQ(sent_.size(), 1U);
  SetEntry(7, kLevel | 0x55);  // still asserted
  EXPECT_EQ(sent_.size(), 2U);
}

TEST_F(IoApicTest, LogicalDestinationIsInTheAddress) {
  SetEntry(4, 0xff00000000000000ULL | 1U << 11U | 0x24);
  apic_.Line(4)->SetLevel(true);
  ASSERT_EQ(sent_.size(), 1U);
  EXPECT_EQ(sent_[0].address, 0xfeeff004U);
}

}  // namespace
}  // namespace wyvern::legacy
