#include "pci/msix.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <future>

#include "base/endian.h"
#include "irq/testing/fake_interrupts.h"

namespace wyvern::pci {
namespace {

class MsixTest : public ::testing::Test {
 protected:
  MsixTest() {
    auto made = Msix::Create(router_, 4);
    EXPECT_TRUE(made);
    msix_ = *std::move(made);
  }

  void Write32(uint64_t offset, uint32_t value) {
    const Le32 wire(value);
    msix_->WriteTable(offset, std::as_bytes(std::span(&wire, 1)));
  }

  uint32_t Read32(uint64_t offset) {
    Le32 wire;
    msix_->ReadTable(offset, std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
  }

  void Program(uint16_t vector, uint64_t address, uint32_t data, bool masked) {
    const uint64_t entry = uint64_t{vector} * 16;
    Write32(entry, static_cast<uint32_t>(address));
    Write32(entry + 4, static_cast<uint32_t>(address >> 32U));
    Write32(entry + 8, data);
    Write32(entry + 12, masked ? 1 : 0);
  }

  uint64_t Pending() {
    Le64 wire;
    msix_->ReadPending(0, std::as_writable_bytes(std::span(&wire, 1)));
    return wire;
  }

  irq::testing::FakeMsiRouter router_;
  std::unique_ptr<Msix> msix_;
};

TEST_F(MsixTest, VectorsStartMaskedAndTakeNoRoute) {
  EXPECT_EQ(Read32(12), 1U);
  msix_->SetControl(true, false);
  EXPECT_TRUE(router_.entries().empty());
}

TEST_F(MsixTest, UnmaskedVectorIsRoutedToItsMessage) {
  Program(2, 0xfee00000, 0x41, false);
  EXPECT_TRUE(router_.entries().empty());  // not enabled yet
  msix_->SetControl(true, false);
  const auto entries = router_.entries();
  ASSERT_EQ(entries.size(), 1U);
  const auto& entry = entries.begin()->second;
  msix_->Signal(2);
  uint64_t count = 0;
  EXPECT_EQ(::read(entry.event_fd, &count, sizeof(count)), ssize_t{sizeof(count)});
  EXPECT_EQ(entry.message.address, 0xfee00000U);
  EXPECT_EQ(entry.message.data, 0x41U);
  EXPECT_FALSE(entry.masked);
}

TEST_F(MsixTest, EnablingManyVectorsIsOneUpdate) {
  for (uint16_t i = 0; i < 4; ++i) {
    Program(i, 0xfee00000, i, false);
  }
  msix_->SetControl(true, false);
  EXPECT_EQ(router_.update_calls, 1);
}

TEST_F(MsixTest, FunctionMaskMasksAndUnmasks) {
  Program(0, 0xfee00000, 1, false);
  msix_->SetControl(true, false);
  msix_->SetControl(true, true);
  EXPECT_TRUE(router_.entries().begin()->second.masked);
  msix_->SetControl(true, false);
  EXPECT_FALSE(router_.entries().begin()->second.masked);
  msix_->SetControl(false, false);
  EXPECT_TRUE(router_.entries().begin()->second.masked);
}

TEST_F(MsixTest, SignalOfAMaskedVectorIsPending) {
  msix_->SetControl(true, false);
  EXPECT_EQ(Pending(), 0U);
  msix_->Signal(1);
  EXPECT_EQ(Pending(), 2U);
}

TEST_F(MsixTest, MessageChangedWhileUnmaskedReachesTheRouter) {
  Program(0, 0xfee00000, 1, false);
  msix_->SetControl(true, false);
  Write32(8, 0x99);
  EXPECT_EQ(router_.entries().begin()->second.message.data, 0x99U);
}

TEST_F(MsixTest, EightByteAccessesWork) {
  const Le64 low(0x00000001fee01000);
  msix_->WriteTable(16, std::as_bytes(std::span(&low, 1)));
  Le64 back;
  msix_->ReadTable(16, std::as_writable_bytes(std::span(&back, 1)));
  EXPECT_EQ(back, 0x00000001fee01000U);
}

TEST_F(MsixTest, Ch8506_OddAccessesChangeNothing) {
  const std::array<std::byte, 2> two{};
  msix_->WriteTable(12, two);
  const std::array<std::byte, 4> four{};
  msix_->WriteTable(13, std::span(four).first(1));
  msix_->WriteTable(10, four);
  EXPECT_EQ(Read32(12), 1U);
  std::array<std::byte, 2> out{};
  msix_->ReadTable(12, out);
  EXPECT_EQ(out[0], std::byte{0xff});
}

TEST_F(MsixTest, Crosvm002cd87a0_VectorOutsideTheTableIsNothing) {
  msix_->Signal(4);
  msix_->Signal(0xffff);
  EXPECT_FALSE(msix_->SharedEvent(4).valid());
}

TEST_F(MsixTest, RouterWithoutRoutesLeavesTheVectorDead) {
  router_.capacity = 0;
  Program(0, 0xfee00000, 1, false);
  msix_->SetControl(true, false);
  EXPECT_EQ(msix_->failures(), 1U);
  msix_->Signal(0);
}

// Who holds it makes it blocking and fills its counter: a write to it would wait for him.
TEST_F(MsixTest, HolderOfASharedEventHoldsNoSignalUp) {
  for (const bool masked : {true, false}) {
    Program(0, 0xfee00000, 1, masked);
    msix_->SetControl(true, false);
    const FdRef shared = msix_->SharedEvent(0);
    ASSERT_TRUE(shared.valid());
    EXPECT_EQ(msix_->SharedEvent(0).get(), shared.get());
    const uint64_t most = ~uint64_t{1};
    static_cast<void>(::write(shared.get(), &most, sizeof(most)));
    ASSERT_EQ(::fcntl(shared.get(), F_SETFL, 0), 0);
    auto signalled = std::async(std::launch::async, [this] { msix_->Signal(0); });
    const bool in_time = signalled.wait_for(std::chrono::seconds(5)) == std::future_status::ready;
    EXPECT_TRUE(in_time);
    uint64_t count = 0;
    EXPECT_EQ(::read(shared.get(), &count, sizeof(count)), ssize_t{sizeof(count)});  // lets it go
    EXPECT_EQ(count, most);
    ASSERT_EQ(::fcntl(shared.get(), F_SETFL, O_NONBLOCK), 0);
  }
}

TEST_F(MsixTest, SharedEventIsRoutedMaskedAndPendingAsItsVector) {
  msix_->SetControl(true, false);
  const FdRef shared = msix_->SharedEvent(3);
  ASSERT_EQ(router_.entries().size(), 1U);
  EXPECT_TRUE(router_.entries().begin()->second.masked);
  const uint64_t one = 1;
  ASSERT_EQ(::write(shared.get(), &one, sizeof(one)), ssize_t{sizeof(one)});
  EXPECT_EQ(Pending(), 8U);
  Program(3, 0xfee01000, 0x55, false);
  ASSERT_EQ(router_.entries().size(), 2U);  // and that of our own signals
  for (const auto& [route, entry] : router_.entries()) {
    EXPECT_FALSE(entry.masked) << route;
    EXPECT_EQ(entry.message.address, 0xfee01000U) << route;
    EXPECT_EQ(entry.message.data, 0x55U) << route;
  }
  msix_->Reset();
  for (const auto& [route, entry] : router_.entries()) {
    EXPECT_TRUE(entry.masked) << route;
  }
}

// Whoever wanted it carries the signals on.
TEST_F(MsixTest, WithoutARouteThereIsNoSharedEvent) {
  router_.capacity = 0;
  EXPECT_FALSE(msix_->SharedEvent(0).valid());
  EXPECT_EQ(msix_->failures(), 1U);
  router_.capacity = 1;
  EXPECT_TRUE(msix_->SharedEvent(0).valid());
}

TEST_F(MsixTest, RoutesGoBackWithTheTable) {
  Program(0, 0xfee00000, 1, false);
  msix_->SetControl(true, false);
  EXPECT_TRUE(msix_->SharedEvent(0).valid());
  EXPECT_EQ(router_.entries().size(), 2U);
  msix_.reset();
  EXPECT_TRUE(router_.entries().empty());
}

}  // namespace
}  // namespace wyvern::pci
