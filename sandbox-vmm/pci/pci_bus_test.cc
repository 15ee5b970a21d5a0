#include "pci/pci_bus.h"

#include <gtest/gtest.h>

#include "base/endian.h"
#include "pci/testing/simple_function.h"

namespace wyvern::pci {
namespace {

using testing::SimpleFunction;

class PciBusTest : public ::testing::Test {
 protected:
  PciBusTest() : mmio_(~uint64_t{0}), bus_(mmio_, {.windows = {{0xc0000000, 0x100000}}}) {}

  uint32_t EcamRead32(uint64_t offset) {
    Le32 wire;
    bus_.ecam()->Read(offset, std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
  }

  void PortWrite(uint64_t offset, std::initializer_list<unsigned> bytes) {
    std::vector<std::byte> in;
    for (const unsigned byte : bytes) {
      in.push_back(static_cast<std::byte>(byte));
    }
    bus_.config_ports()->Write(offset, in);
  }

  void PortAddress(uint32_t address) {
    const Le32 wire(address);
    bus_.config_ports()->Write(0, std::as_bytes(std::span(&wire, 1)));
  }

  uint32_t PortRead32(uint64_t offset) {
    Le32 wire;
    bus_.config_ports()->Read(offset, std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
  }

  bus::Bus mmio_;
  PciBus bus_;
};

TEST_F(PciBusTest, HostBridgeIsInSlot0) {
  EXPECT_EQ(EcamRead32(0), 0x00081b36U);
  EXPECT_EQ(EcamRead32(8) >> 8U, 0x060000U);
}

TEST_F(PciBusTest, AbsentFunctionsAndBusesReadAsOnes) {
  EXPECT_EQ(EcamRead32(1U << 15U), 0xffffffffU);  // slot 1
  EXPECT_EQ(EcamRead32(1U << 12U), 0xffffffffU);  // function 1 of slot 0
  EXPECT_EQ(EcamRead32(1U << 20U), 0xffffffffU);  // bus 1
  EXPECT_EQ(EcamRead32(0x100), 0xffffffffU);      // extended space of a conventional function
}

TEST_F(PciBusTest, AddTakesTheLowestFreeSlotAndPlacesBars) {
  auto first = bus_.Add(std::make_shared<SimpleFunction>(0x1000));
  auto second = bus_.Add(std::make_shared<SimpleFunction>(0x4000));
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->slot, 1);
  EXPECT_EQ(second->slot, 2);
  EXPECT_EQ(EcamRead32((1U << 15U) + 0x10), 0xc0000004U);
  EXPECT_EQ(EcamRead32((2U << 15U) + 0x10), 0xc0004004U);
}

TEST_F(PciBusTest, ThirtyOneFunctionsFitAndNoMore) {
  for (int i = 0; i < 31; ++i) {
    ASSERT_TRUE(bus_.Add(std::make_shared<SimpleFunction>(0x1000)));
  }
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000)).error().code(),
            Code::kResourceExhausted);
  ASSERT_TRUE(bus_.Remove({7}));
  auto again = bus_.Add(std::make_shared<SimpleFunction>(0x1000));
  ASSERT_TRUE(again);
  EXPECT_EQ(again->slot, 7);
}

TEST_F(PciBusTest, PlugAndUnplugForeverKeepsItsAddressSpace) {
  for (int i = 0; i < 1000; ++i) {
    auto slot = bus_.Add(std::make_shared<SimpleFunction>(0x40000));
    ASSERT_TRUE(slot);
    ASSERT_TRUE(bus_.Remove(*slot));
  }
}

// The guest was not told that its function is gone: it must not take the next one for it.
TEST_F(PciBusTest, RetiredSlotIsGivenToNobody) {
  ASSERT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000))->slot, 1);
  ASSERT_TRUE(bus_.Remove({1}, PciBus::After::kRetired));
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000))->slot, 2);
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000), uint8_t{1}).error().code(),
            Code::kAlreadyExists);
  EXPECT_EQ(EcamRead32(1U << 15U), 0xffffffffU);
  for (int i = 3; i < 32; ++i) {
    ASSERT_TRUE(bus_.Add(std::make_shared<SimpleFunction>(0x1000)));
  }
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000)).error().code(),
            Code::kResourceExhausted);
}

TEST_F(PciBusTest, TakenAndImpossibleSlotsAreErrors) {
  ASSERT_TRUE(bus_.Add(std::make_shared<SimpleFunction>(0x1000), uint8_t{5}));
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000), uint8_t{5}).error().code(),
            Code::kAlreadyExists);
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000), uint8_t{32}).error().code(),
            Code::kInvalidArgument);
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x200000)).error().code(),
            Code::kResourceExhausted);
  EXPECT_EQ(bus_.Remove({0}).error().code(), Code::kNotFound);
  EXPECT_EQ(bus_.Remove({9}).error().code(), Code::kNotFound);
}

TEST_F(PciBusTest, RemovedFunctionIsGoneFromBusAndBar) {
  auto function = std::make_shared<SimpleFunction>(0x1000);
  ASSERT_TRUE(bus_.Add(function));
  const Le32 command(uint32_t{kCommandMemory});
  bus_.ecam()->Write((1U << 15U) + kCommand, std::as_bytes(std::span(&command, 1)));
  ASSERT_TRUE(function->mapped(0));
  ASSERT_TRUE(bus_.Remove({1}));
  EXPECT_FALSE(function->mapped(0));
  EXPECT_EQ(EcamRead32(1U << 15U), 0xffffffffU);
}

// A guest that has let go of one function may give its addresses to the next before the first is off the bus.
TEST_F(PciBusTest, AddressOfAFunctionThatLeavesIsTheNextOnesThatWaitsForIt) {
  auto leaving = std::make_shared<SimpleFunction>(0x1000);
  auto next = std::make_shared<SimpleFunction>(0x1000);
  ASSERT_TRUE(bus_.Add(leaving));
  ASSERT_TRUE(bus_.Add(next));
  const Le32 command(uint32_t{kCommandMemory});
  bus_.ecam()->Write((1U << 15U) + kCommand, std::as_bytes(std::span(&command, 1)));
  const Le32 address(uint32_t{0xc0000000});
  bus_.ecam()->Write((2U << 15U) + kBar0, std::as_bytes(std::span(&address, 1)));
  bus_.ecam()->Write((2U << 15U) + kCommand, std::as_bytes(std::span(&command, 1)));
  ASSERT_TRUE(leaving->mapped(0));
  ASSERT_FALSE(next->mapped(0));
  ASSERT_TRUE(bus_.Remove({1}));
  EXPECT_EQ(next->mapped(0), 0xc0000000U);
  EXPECT_EQ(next->moves.size(), 1U);
}

TEST_F(PciBusTest, PortsReachTheSameRegistersAsEcam) {
  PortAddress(0x80000000);
  EXPECT_EQ(PortRead32(0), 0x80000000U);
  EXPECT_EQ(PortRead32(4), 0x00081b36U);
  std::array<std::byte, 2> device{};
  bus_.config_ports()->Read(6, device);
  EXPECT_EQ(device[0], std::byte{0x08});
  PortAddress(0x80000000 | 1U << 11U);
  EXPECT_EQ(PortRead32(4), 0xffffffffU);
}

TEST_F(PciBusTest, PortsAnswerOnlyWhenEnabledAndInTheRightSizes) {
  PortAddress(0x00000000);
  EXPECT_EQ(PortRead32(4), 0xffffffffU);
  PortAddress(0x80000000);
  PortWrite(0, {0, 0});  // not a doubleword: no address
  PortWrite(1, {0x06});  // 0xcf9, the reset port of other machines
  EXPECT_EQ(PortRead32(0), 0x80000000U);
  std::array<std::byte, 2> half{};
  bus_.config_ports()->Read(0, half);
  EXPECT_EQ(half[0], std::byte{0xff});
}

TEST_F(PciBusTest, Ch8237_OddEcamAccessesAreSplit) {
  std::array<std::byte, 8> eight{};
  bus_.ecam()->Read(0, eight);
  EXPECT_EQ(eight[0], std::byte{0x36});
  std::array<std::byte, 4> crossing{};
  bus_.ecam()->Read(2, crossing);
  EXPECT_EQ(crossing[0], std::byte{0x08});
  bus_.ecam()->Read(0xffe, crossing);  // past the function's end
  EXPECT_EQ(crossing[3], std::byte{0xff});
}

}  // namespace
}  // namespace wyvern::pci
