#include "legacy/power.h"

#include <vector>

#include <gtest/gtest.h>

namespace wyvern::legacy {
namespace {

class PowerTest : public testing::Test {
 protected:
  static void Out(bus::BusDevice* device, uint64_t offset, unsigned value) {
    const auto byte = static_cast<std::byte>(value);
    device->Write(offset, std::span(&byte, 1));
  }

  GuestRequestCallback Record() {
    return [this](GuestRequest request) { requests_.push_back(request); };
  }

  std::vector<GuestRequest> requests_;
};

TEST_F(PowerTest, OtherSleepValuesDoNothing) {
  PowerRegisters power(Record());
  for (unsigned value = 0; value < 256; ++value) {
    Out(&power, 1, value);
    if ((value & 0x3cU) != 0x34) {
      Out(&power, 0, value);
    }
    if (value != 1) {
      Out(&power, 2, value);
    }
  }
  EXPECT_TRUE(requests_.empty());
}

TEST_F(PowerTest, S5WithEnablePowersOffAndResetResets) {
  PowerRegisters power(Record());
  Out(&power, 0, 0x34);
  Out(&power, 2, 1);
  EXPECT_EQ(requests_, (std::vector{GuestRequest::kPowerOff, GuestRequest::kReset}));
}

TEST_F(PowerTest, Ch8405_EveryWidthAtEveryOffsetIsTakenByItsFirstByte) {
  PowerRegisters power(Record());
  KeyboardReset keyboard(Record());
  PvPanic pvpanic(Record());
  for (bus::BusDevice* device :
       {static_cast<bus::BusDevice*>(&power), static_cast<bus::BusDevice*>(&keyboard),
        static_cast<bus::BusDevice*>(&pvpanic)}) {
    for (uint64_t offset = 0; offset < 4; ++offset) {
      for (const size_t width : {1U, 2U, 4U, 8U}) {
        std::vector<std::byte> bytes(width, std::byte{0});
        device->Write(offset, bytes);
        bytes.assign(width, std::byte{0xff});
        device->Read(offset, bytes);
        EXPECT_EQ(bytes[width - 1], width > 1 || device != &pvpanic ? std::byte{0} : std::byte{7});
      }
    }
  }
  EXPECT_TRUE(requests_.empty());
  const std::vector<std::byte> off{std::byte{0x34}, std::byte{0xff}, std::byte{1}, std::byte{0}};
  power.Write(0, off);
  EXPECT_EQ(requests_, std::vector{GuestRequest::kPowerOff});
}

TEST_F(PowerTest, KeyboardCommandResets) {
  KeyboardReset keyboard(Record());
  Out(&keyboard, 0, 0xd1);
  EXPECT_TRUE(requests_.empty());
  Out(&keyboard, 0, 0xfe);
  EXPECT_EQ(requests_, std::vector{GuestRequest::kReset});
  std::byte status{0xff};
  keyboard.Read(0, std::span(&status, 1));
  EXPECT_EQ(status, std::byte{0});
}

TEST_F(PowerTest, PvPanicTellsItsEventsAndRaisesThem) {
  PvPanic pvpanic(Record());
  std::byte known{};
  pvpanic.Read(0, std::span(&known, 1));
  EXPECT_EQ(known, std::byte{7});
  Out(&pvpanic, 0, 0xf8);
  EXPECT_TRUE(requests_.empty());
  Out(&pvpanic, 0, 1);
  Out(&pvpanic, 0, 2);
  Out(&pvpanic, 0, 4);
  EXPECT_EQ(requests_, (std::vector{GuestRequest::kPanicked, GuestRequest::kCrashLoaded,
                                    GuestRequest::kShutdown}));
}

}  // namespace
}  // namespace wyvern::legacy
