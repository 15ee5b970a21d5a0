// Guests that break the rules of the memory device.
#include <array>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "virtio_mem/testing/mem_guest.h"

namespace wyvern::devices {
namespace {

using testing::MemGuest;

class MemHostileTest : public ::testing::Test {
 protected:
  MemResponseType Raw(MemRequestType type, uint64_t address, uint16_t blocks) {
    return static_cast<MemResponseType>(
        guest_.Send(MemGuest::Wire(type, address, blocks)).type.value());
  }

  void ExpectUntouched() {
    EXPECT_TRUE(guest_.log().calls().empty());
    EXPECT_EQ(guest_.device().plugged_size(), 0U);
    EXPECT_EQ(guest_.Plug(0, 1), MemResponseType::kAck);
  }

  MemGuest guest_ = MemGuest::Started(64);
};

TEST_F(MemHostileTest, RangesThatAreNoUsableBlocksAreErrors) {
  const uint64_t usable = guest_.Config().usable_size;
  for (const MemRequestType type :
       {MemRequestType::kPlug, MemRequestType::kUnplug, MemRequestType::kState}) {
    for (const uint64_t address :
         {MemGuest::kStart + 1, MemGuest::kStart + MemGuest::kBlock / 2,
          MemGuest::kStart - MemGuest::kBlock, uint64_t{0}, MemGuest::kStart + usable, ~uint64_t{0},
          ~uint64_t{0} - MemGuest::kBlock + 1, uint64_t{1} << 63U}) {
      EXPECT_EQ(Raw(type, address, 1), MemResponseType::kError) << address;
      EXPECT_EQ(Raw(type, address, 0xffff), MemResponseType::kError) << address;
    }
    EXPECT_EQ(Raw(type, MemGuest::kStart, 0), MemResponseType::kError);
    EXPECT_EQ(Raw(type, MemGuest::kStart, 0xffff), MemResponseType::kError);
    EXPECT_EQ(Raw(type, MemGuest::kStart + usable - MemGuest::kBlock, 2), MemResponseType::kError);
  }
  ExpectUntouched();
}

TEST_F(MemHostileTest, UnknownTypesAreErrors) {
  for (const uint16_t type : {uint16_t{4}, uint16_t{0x100}, uint16_t{0xffff}}) {
    EXPECT_EQ(Raw(static_cast<MemRequestType>(type), MemGuest::kStart, 1), MemResponseType::kError);
  }
  EXPECT_EQ(guest_.rig().counter("bad_requests"), 3U);
  ExpectUntouched();
}

TEST_F(MemHostileTest, TruncatedRequestsAreErrors) {
  const std::string whole = MemGuest::Wire(MemRequestType::kPlug, MemGuest::kStart, 1);
  for (const size_t length : {size_t{1}, size_t{2}, size_t{17}, size_t{23}}) {
    EXPECT_EQ(guest_.Send(whole.substr(0, length)).type,
              static_cast<uint16_t>(MemResponseType::kError));
  }
  ExpectUntouched();
}

TEST_F(MemHostileTest, Cve202648914_RequestThatCannotBeAnsweredIsNotCarriedOut) {
  auto& driver = guest_.rig().queue(0);
  const std::string plug = MemGuest::Wire(MemRequestType::kPlug, MemGuest::kStart, 1);
  const uint16_t small = driver.Build().Readable(plug).Writable(9).Submit();
  driver.Build().Readable(plug).Submit();
  driver.Build().Writable(10).Submit();
  guest_.rig().KickAlways(0);
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 10U);  // an error, which it is
  EXPECT_EQ(driver.Written(small, 9), std::string(9, '\0'));
  EXPECT_EQ(guest_.rig().counter("bad_requests"), 3U);
  ExpectUntouched();
}

TEST_F(MemHostileTest, RequestInPiecesAndRoomInPiecesIsARequest) {
  const std::string plug = MemGuest::Wire(MemRequestType::kPlug, MemGuest::kStart, 1);
  auto& driver = guest_.rig().queue(0);
  auto build = driver.Build();
  for (const char byte : plug) {
    build.Readable(std::string_view(&byte, 1));
  }
  const uint16_t head = build.Writable(3).Writable(7).Submit();
  guest_.rig().KickAlways(0);
  EXPECT_EQ(guest_.rig().WaitUsed(0).head, head);
  EXPECT_EQ(guest_.device().plugged_size(), MemGuest::kBlock);
}

TEST_F(MemHostileTest, PluggingMoreThanRequestedInSmallStepsEndsWithANack) {
  for (uint64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(guest_.Plug(2 * i, 1), MemResponseType::kAck);
  }
  EXPECT_EQ(guest_.Plug(1, 1), MemResponseType::kNack);
  EXPECT_EQ(guest_.device().plugged_size(), 64 * MemGuest::kBlock);
}

TEST_F(MemHostileTest, PlugAndUnplugInTurnsLeavesNothingBehind) {
  for (int i = 0; i < 500; ++i) {
    ASSERT_EQ(guest_.Plug(0, 64), MemResponseType::kAck);
    ASSERT_EQ(guest_.Unplug(0, 64), MemResponseType::kAck);
  }
  EXPECT_EQ(guest_.device().plugged_size(), 0U);
  EXPECT_EQ(guest_.log().calls().size(), 1000U);  // one for each request
}

TEST_F(MemHostileTest, ConfigurationAccessesPastTheEndTouchNothing) {
  std::array<std::byte, 8> ones;
  ones.fill(std::byte{0xff});
  const MemConfig before = guest_.Config();
  for (const uint32_t offset : {0U, 48U, 49U, 55U, 56U, 0x7fffffffU, 0xfffffff9U, 0xffffffffU}) {
    guest_.rig().core().WriteConfig(offset, ones);
    std::array<std::byte, 8> read = ones;
    guest_.rig().core().ReadConfig(offset, read);
    if (offset > 48) {
      EXPECT_EQ(read[7], std::byte{0}) << offset;
    }
  }
  const MemConfig after = guest_.Config();
  EXPECT_EQ(std::memcmp(&before, &after, sizeof(before)), 0);
}

}  // namespace
}  // namespace wyvern::devices
