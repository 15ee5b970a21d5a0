#include "pci/function.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/endian.h"
#include "pci/testing/simple_function.h"

namespace wyvern::pci {
namespace {

using testing::SimpleFunction;

constexpr uint64_t kWindow = 0x100000000;

class FunctionTest : public ::testing::Test {
 protected:
  FunctionTest() : bus_(~uint64_t{0}), function_(std::make_shared<SimpleFunction>(0x1000)) {
    const Window window{.start = kWindow, .size = 0x100000};
    function_->Attach(bus_, std::span(&window, 1));
  }

  void TearDown() override { function_->Detach(); }

  void Write32(uint16_t offset, uint32_t value) {
    const Le32 wire(value);
    function_->WriteConfig(offset, std::as_bytes(std::span(&wire, 1)));
  }

  void MoveBar(uint64_t address) {
    Write32(kBar0, static_cast<uint32_t>(address));
    Write32(kBar0 + 4, static_cast<uint32_t>(address >> 32U));
  }

  bool Responds(uint64_t address) {
    std::array<std::byte, 4> out{};
    return bus_.Read(address, out);
  }

  bus::Bus bus_;
  std::shared_ptr<SimpleFunction> function_;
};

TEST_F(FunctionTest, BarAnswersOnlyWhileDecodingIsOn) {
  MoveBar(kWindow);
  EXPECT_FALSE(Responds(kWindow));
  Write32(kCommand, kCommandMemory);
  EXPECT_TRUE(Responds(kWindow));
  Write32(kCommand, 0);
  EXPECT_FALSE(Responds(kWindow));
  EXPECT_EQ(function_->moves, (std::vector<std::optional<uint64_t>>{kWindow, std::nullopt}));
}

TEST_F(FunctionTest, BarMovesWithTheGuestsWrites) {
  Write32(kCommand, kCommandMemory);
  MoveBar(kWindow + 0x1000);
  EXPECT_TRUE(Responds(kWindow + 0x1000));
  MoveBar(kWindow + 0x4000);
  EXPECT_FALSE(Responds(kWindow + 0x1000));
  EXPECT_TRUE(Responds(kWindow + 0x4000));
}

TEST_F(FunctionTest, SizingWhileDecodingIsOnUnmapsAndComesBack) {
  Write32(kCommand, kCommandMemory);
  MoveBar(kWindow);
  MoveBar(~uint64_t{0});
  EXPECT_FALSE(Responds(kWindow));
  MoveBar(kWindow);
  EXPECT_TRUE(Responds(kWindow));
}

TEST_F(FunctionTest, Ch7950_BarMovedOutOfTheWindowIsNotMapped) {
  Write32(kCommand, kCommandMemory);
  for (const uint64_t address : {uint64_t{0}, uint64_t{0xfee00000}, kWindow + 0x100000,
                                 kWindow - 0x1000, ~uint64_t{0xfff}}) {
    MoveBar(address);
    EXPECT_FALSE(function_->mapped(0).has_value()) << std::hex << address;
  }
  MoveBar(kWindow + 0x100000 - 0x1000);
  EXPECT_TRUE(function_->mapped(0).has_value());
}

TEST_F(FunctionTest, BarOnTopOfAnotherDeviceStaysUnmapped) {
  auto other = std::make_shared<SimpleFunction>(0x1000);
  const Window window{.start = kWindow, .size = 0x100000};
  other->Attach(bus_, std::span(&window, 1));
  other->PlaceBar(0, kWindow);
  const Le32 command(uint32_t{kCommandMemory});
  other->WriteConfig(kCommand, std::as_bytes(std::span(&command, 1)));
  ASSERT_TRUE(other->mapped(0));
  Write32(kCommand, kCommandMemory);
  MoveBar(kWindow);
  EXPECT_FALSE(function_->mapped(0));
  EXPECT_TRUE(other->mapped(0));
  other->Detach();
  EXPECT_FALSE(Responds(kWindow));
}

// CVE-2021-45464 (kvmtool): configuration accesses beyond the structure were carried out.
TEST_F(FunctionTest, AccessesPastTheHeaderReadAsOnes) {
  std::array<std::byte, 4> out{};
  function_->ReadConfig(256, out);
  EXPECT_EQ(out[3], std::byte{0xff});
  function_->ReadConfig(0xffff, out);
  EXPECT_EQ(out[0], std::byte{0xff});
  function_->WriteConfig(0xfffc, out);
}

TEST_F(FunctionTest, DetachedFunctionIsOffTheBus) {
  MoveBar(kWindow);
  Write32(kCommand, kCommandMemory);
  function_->Detach();
  EXPECT_FALSE(Responds(kWindow));
  Write32(kCommand, kCommandMemory);
  EXPECT_FALSE(Responds(kWindow));
}

TEST_F(FunctionTest, MsixTableAndPbaAreInTheBar) {
  irq::testing::FakeMsiRouter router;
  auto function = std::make_shared<SimpleFunction>(0x1000, &router);
  const Window window{.start = kWindow, .size = 0x100000};
  function->Attach(bus_, std::span(&window, 1));
  function->PlaceBar(0, kWindow + 0x2000);
  const Le32 command(uint32_t{kCommandMemory});
  function->WriteConfig(kCommand, std::as_bytes(std::span(&command, 1)));
  const uint64_t table = kWindow + 0x2000 + SimpleFunction::kTable;
  const Le32 data(0x1234U);
  EXPECT_TRUE(bus_.Write(table + 8, std::as_bytes(std::span(&data, 1))));
  const Le32 unmask(0U);
  EXPECT_TRUE(bus_.Write(table + 12, std::as_bytes(std::span(&unmask, 1))));
  // Enable bit of message control, through the capability.
  Le32 pointer;
  function->ReadConfig(kCapabilityPointer, std::as_writable_bytes(std::span(&pointer, 1)));
  const Le16 control(uint16_t{0x8000});
  function->WriteConfig(static_cast<uint16_t>((pointer & 0xffU) + 2),
                        std::as_bytes(std::span(&control, 1)));
  ASSERT_EQ(router.entries().size(), 1U);
  EXPECT_EQ(router.entries().begin()->second.message.data, 0x1234U);
  EXPECT_FALSE(router.entries().begin()->second.masked);
  function->Detach();
}

TEST_F(FunctionTest, MovesUnderAccessesFromAnotherVcpuAreSafe) {
  Write32(kCommand, kCommandMemory);
  std::atomic<bool> stop{false};
  std::thread vcpu([&] {
    std::array<std::byte, 4> out{};
    while (!stop.load()) {
      bus_.Read(kWindow, out);
      bus_.Read(kWindow + 0x1000, out);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    MoveBar(i % 2 == 0 ? kWindow : kWindow + 0x1000);
  }
  stop.store(true);
  vcpu.join();
}

}  // namespace
}  // namespace wyvern::pci
