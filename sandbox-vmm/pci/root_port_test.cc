// Root ports: what a guest sees of them, buses that it numbers as it likes, functions that come and go behind them.
#include "pci/root_port.h"

#include <set>

#include <gtest/gtest.h>

#include "base/endian.h"
#include "pci/pci_bus.h"
#include "pci/testing/simple_function.h"

namespace wyvern::pci {
namespace {

using testing::SimpleFunction;

constexpr uint32_t kLowWindow = 0xc0000000;
constexpr uint16_t kBusNumbers = 0x18;

class RootPortTest : public ::testing::Test {
 protected:
  RootPortTest()
      : mmio_(~uint64_t{0}), bus_(mmio_, {.windows = {{kLowWindow, 0x1000000}}, .buses = 32}) {
    for (int i = 1; i < 30; ++i) {
      EXPECT_TRUE(bus_.Add(std::make_shared<SimpleFunction>(0x1000)));
    }
  }

  // As a guest does that puts the bus behind port `number` of slot 30 at `bus`.
  void Number(unsigned number, uint32_t bus) {
    Write32(At(0, 30, number) + kBusNumbers, bus << 16U | bus << 8U);
  }

  static uint64_t At(uint64_t bus, uint64_t slot, uint64_t function) {
    return bus << 20U | slot << 15U | function << 12U;
  }

  uint32_t Read32(uint64_t offset) {
    Le32 wire;
    bus_.ecam()->Read(offset, std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
  }

  void Write32(uint64_t offset, uint32_t value) {
    const Le32 wire(value);
    bus_.ecam()->Write(offset, std::as_bytes(std::span(&wire, 1)));
  }

  std::shared_ptr<SimpleFunction> Plug(Place expected) {
    auto function = std::make_shared<SimpleFunction>(0x1000, &router_);
    const auto place = bus_.Add(function);
    EXPECT_TRUE(place);
    EXPECT_EQ(place->Text(), expected.Text());
    return function;
  }

  irq::testing::FakeMsiRouter router_;
  bus::Bus mmio_;
  PciBus bus_;
};

TEST_F(RootPortTest, PortComesWithItsFirstFunctionAndStays) {
  EXPECT_EQ(Read32(At(0, 30, 0)), 0xffffffffU);
  Plug({.slot = 30, .port = 0});
  EXPECT_EQ(Read32(At(0, 30, 0)), 0x000c1b36U);
  EXPECT_EQ(Read32(At(0, 30, 1)), 0xffffffffU);
  EXPECT_EQ(Read32(At(0, 30, 0) + 0x8) >> 8U, 0x060400U);
  EXPECT_EQ(Read32(At(0, 30, 0) + 0xc) >> 16U & 0xffU, 0x81U);
  ASSERT_TRUE(bus_.Remove({.slot = 30, .port = 0}));
  EXPECT_EQ(Read32(At(0, 30, 0)), 0x000c1b36U);
  Plug({.slot = 30, .port = 0});
}

TEST_F(RootPortTest, IsARootPortWithoutASlotItsOwnDriverWouldServe) {
  Plug({.slot = 30, .port = 0});
  const uint64_t port = At(0, 30, 0);
  const uint32_t capability = Read32(port + (Read32(port + kCapabilityPointer) & 0xffU));
  EXPECT_EQ(capability & 0xffU, 0x10U);
  EXPECT_EQ(capability >> 16U, 0x0042U);  // root port, version 2, slot not implemented
  EXPECT_EQ(capability >> 8U & 0xffU, 0U);
}

TEST_F(RootPortTest, OnlyTheMemoryWindowCanBeSet) {
  Plug({.slot = 30, .port = 0});
  const uint64_t port = At(0, 30, 0);
  EXPECT_EQ(Read32(port + 0x20), 0x0000fff0U) << "closed until the guest opens it";
  for (uint64_t offset = 0x10; offset < 0x40; offset += 4) {
    if (offset != kCapabilityPointer) {
      Write32(port + offset, 0xffffffffU);
    }
  }
  EXPECT_EQ(Read32(port + 0x10), 0U);
  EXPECT_EQ(Read32(port + kBusNumbers), 0x00ffffffU);
  EXPECT_EQ(Read32(port + 0x1c), 0U);
  EXPECT_EQ(Read32(port + 0x20), 0xfff0fff0U);
  for (const uint64_t none : {0x24U, 0x28U, 0x2cU, 0x30U, 0x38U}) {
    EXPECT_EQ(Read32(port + none), 0U) << none;
  }
  EXPECT_EQ(Read32(port + 0x3c) >> 16U, 0U) << "no bit of bridge control is ours";
}

TEST_F(RootPortTest, FunctionAnswersOnTheBusThatTheGuestNumbers) {
  auto function = Plug({.slot = 30, .port = 0});
  EXPECT_EQ(Read32(At(1, 0, 0)), 0xffffffffU);
  Number(0, 7);
  EXPECT_EQ(Read32(At(7, 0, 0)), 0x56781234U);
  EXPECT_EQ(Read32(At(7, 0, 1)), 0xffffffffU);
  EXPECT_EQ(Read32(At(7, 1, 0)), 0xffffffffU);
  EXPECT_EQ(Read32(At(7, 0, 0) + kBar0), 4U) << "the guest gives it its address";
  Write32(At(7, 0, 0) + kBar0, kLowWindow + 0x800000);
  Write32(At(7, 0, 0) + kCommand, kCommandMemory);
  EXPECT_EQ(function->mapped(0), kLowWindow + 0x800000);
  Number(0, 9);
  EXPECT_EQ(Read32(At(7, 0, 0)), 0xffffffffU);
  EXPECT_EQ(Read32(At(9, 0, 0)), 0x56781234U);
  ASSERT_TRUE(bus_.Remove({.slot = 30, .port = 0}));
  EXPECT_EQ(Read32(At(9, 0, 0)), 0xffffffffU);
  EXPECT_FALSE(function->mapped(0));
}

TEST_F(RootPortTest, NumbersThatAreNoneOrTwiceReachTheFirstPortOrNothing) {
  auto first = Plug({.slot = 30, .port = 0});
  auto second = Plug({.slot = 30, .port = 1});
  Number(0, 0);
  Number(1, 0);
  EXPECT_EQ(Read32(At(0, 0, 0)), 0x00081b36U) << "bus 0 is nobody's behind a port";
  Number(0, 5);
  Number(1, 5);
  Write32(At(5, 0, 0) + kBar0, kLowWindow + 0x900000);
  Write32(At(5, 0, 0) + kCommand, kCommandMemory);
  EXPECT_TRUE(first->mapped(0));
  EXPECT_FALSE(second->mapped(0));
  Number(0, 255);
  EXPECT_EQ(Read32(At(5, 0, 0) + kCommand) & 2U, 0U) << "now it is the second one's";
}

TEST_F(RootPortTest, BarsBehindPortsCannotLieOnOthers) {
  auto function = Plug({.slot = 30, .port = 0});
  Number(0, 1);
  Write32(At(0, 1, 0) + kCommand, kCommandMemory);  // slot 1 decodes at the window's begin
  Write32(At(1, 0, 0) + kCommand, kCommandMemory);
  for (const uint32_t address : {0U, static_cast<uint32_t>(kLowWindow), 0xfee00000U}) {
    Write32(At(1, 0, 0) + kBar0, address);
    EXPECT_FALSE(function->mapped(0)) << address;
  }
}

TEST_F(RootPortTest, SixteenFitAndFunctionZeroOfASlotComesFirst) {
  std::set<std::string> places;
  for (int i = 0; i < 16; ++i) {
    const auto place = bus_.Add(std::make_shared<SimpleFunction>(0x1000));
    ASSERT_TRUE(place);
    EXPECT_NE(Read32(At(0, place->slot, 0)), 0xffffffffU) << "a guest would not look further";
    places.insert(place->Text());
  }
  EXPECT_EQ(places.size(), 16U);
  EXPECT_EQ(*places.rbegin(), "0000:00:1f.7/0");
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000)).error().code(),
            Code::kResourceExhausted);
  EXPECT_EQ(bus_.Add(std::make_shared<SimpleFunction>(0x1000), uint8_t{31}).error().code(),
            Code::kAlreadyExists);
}

TEST_F(RootPortTest, RetiredPlaceIsGivenToNobody) {
  Plug({.slot = 30, .port = 0});
  Number(0, 3);
  ASSERT_TRUE(bus_.Remove({.slot = 30, .port = 0}, PciBus::After::kRetired));
  Plug({.slot = 30, .port = 1});
  EXPECT_EQ(Read32(At(3, 0, 0)), 0xffffffffU);
}

TEST_F(RootPortTest, PlacesThatAreNoneAreNotFound) {
  Plug({.slot = 30, .port = 0});
  for (const Place place :
       {Place{.slot = 30}, Place{.slot = 30, .port = 1}, Place{.slot = 30, .port = 8},
        Place{.slot = 1, .port = 0}, Place{.slot = 32, .port = 0}, Place{.slot = 255},
        Place{.slot = 31, .port = 7}, Place{.slot = 0}}) {
    EXPECT_EQ(bus_.Remove(place).error().code(), Code::kNotFound) << place.Text();
  }
}

TEST_F(RootPortTest, TenThousandComeAndGoAndNothingIsLeft) {
  for (int i = 0; i < 10000; ++i) {
    auto function = Plug({.slot = 30, .port = 0});
    Number(0, 1 + static_cast<uint32_t>(i) % 31);
    const uint64_t at = At(1 + static_cast<uint64_t>(i) % 31, 0, 0);
    Write32(at + kBar0, kLowWindow + 0x800000);
    Write32(at + kCommand, kCommandMemory);
    ASSERT_TRUE(function->mapped(0));
    ASSERT_TRUE(bus_.Remove({.slot = 30, .port = 0}));
    ASSERT_EQ(function.use_count(), 1);
  }
  EXPECT_TRUE(router_.entries().empty());
}

}  // namespace
}  // namespace wyvern::pci
