// The memory table, slots, and the log of dirty pages.
#include <gtest/gtest.h>

#include "base/mapping.h"
#include "vhost_user/testing/backend_rig.h"
#include "virtio/memory_feed.h"

namespace wyvern::vhost_user {
namespace {

class BackendMemoryTest : public testing::BackendRig {};

TEST_F(BackendMemoryTest, NewTableStopsRingsForTheChange) {
  RunRing();
  const auto before = state_->resources[0].memory;
  state_->stopped.next_available = 9;
  ASSERT_TRUE(SetMemory({{kGuest, kSize, kUser, 0}, {kGuest * 16, kSize, kUser + kSize, 0}}));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_NE(state_->resources[0].memory, before);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_available, 9U);
  EXPECT_EQ(state_->resumed.value_or(virtio::QueueState{}).next_used, 3U);
}

struct BadTable {
  const char* name;
  std::vector<MemoryRegion> regions;
};

// Each alone is refused, and the table from before stays.
TEST_F(BackendMemoryTest, BadTablesLeaveTheOldOne) {
  const MemoryRegion good{kGuest, kSize, kUser, 0};
  const BadTable tables[] = {
      {"overlap in the guest", {good, {kGuest + 0x1000, kSize, kUser * 2, 0}}},
      {"the same twice", {good, {kGuest, kSize, kUser * 2, 0}}},
      {"overlap in the front-end", {good, {kGuest * 16, kSize, kUser + 0x1000, 0}}},
      {"one inside the other", {good, {kGuest * 16, 0x1000, kUser + 0x1000, 0}}},
      {"longer than any file", {{kGuest, ~uint64_t{0}, kUser, 0}}},
      {"guest address wraps", {{~uint64_t{0xfff}, kSize, kUser, 0}}},
      {"user address wraps", {{kGuest, kSize, ~uint64_t{0xfff}, 0}}},
      {"beyond the file", {{kGuest, kSize, kUser, kSize}}},
      {"one page beyond the file", {{kGuest, kSize, kUser, 0x1000}}},
      {"size and offset wrap", {{kGuest, kSize, kUser, ~uint64_t{0xfff}}}},
      {"size and offset wrap a signed offset", {{kGuest, kSize, kUser, uint64_t{1} << 63}}},
      {"empty", {{kGuest, 0, kUser, 0}}},
      {"no whole page", {{kGuest, 0x1001, kUser, 0}}},
      {"offset in a page", {{kGuest, 0x1000, kUser, 0x800}}},
      {"guest address in a page", {{kGuest + 0x800, 0x1000, kUser, 0}}},
  };
  Negotiate();
  SetOneRegion();
  for (const BadTable& table : tables) {
    EXPECT_FALSE(SetMemory(table.regions)) << table.name;
  }
  PrepareRing(0);  // still within the first table
}

TEST_F(BackendMemoryTest, TableWithAnotherNumberOfDescriptorsIsRefused) {
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  MemoryTable table;
  table.regions[0] = {kGuest, kSize, kUser, 0};
  for (const uint32_t count : {0U, 2U, 9U, ~0U}) {
    table.count = count;
    EXPECT_FALSE(Done(Request::kSetMemTable, table, {memory})) << count;
  }
  table.count = 1;
  EXPECT_FALSE(Done(Request::kSetMemTable, table, {memory, memory}));
  // More regions than the message has room for.
  table.count = 2;
  EXPECT_FALSE(DoneBytes(Request::kSetMemTable,
                         std::as_bytes(std::span(&table, 1)).first(8 + sizeof(MemoryRegion)),
                         {memory, memory}));
  table.count = 1;
  EXPECT_TRUE(DoneBytes(Request::kSetMemTable,
                        std::as_bytes(std::span(&table, 1)).first(8 + sizeof(MemoryRegion)),
                        {memory}));
}

TEST_F(BackendMemoryTest, SlotsComeAndGo) {
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  const SingleRegion region{0, {kGuest, kSize, kUser, 0}};
  EXPECT_TRUE(Done(Request::kAddMemReg, region, {memory}));
  EXPECT_FALSE(Done(Request::kAddMemReg, region, {memory}));
  PrepareRing(0);
  SingleRegion other = region;
  other.region.size = 0x1000;
  EXPECT_FALSE(Done(Request::kRemMemReg, other));
  // The offset does not name it, and a descriptor is taken and closed.
  other = region;
  other.region.mmap_offset = 0x1000;
  EXPECT_TRUE(Done(Request::kRemMemReg, other, {memory}));
  EXPECT_FALSE(Done(Request::kRemMemReg, region));
}

// QEMU 7.2, whose network devices of several pairs say all of it once for each.
TEST_F(BackendMemoryTest, NetworkDeviceMayHearOfASlotAgain) {
  UsePairs(2);
  Make({});
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  const UniqueFd another = Memfd(kSize);
  const SingleRegion region{0, {kGuest, kSize, kUser, 0}};
  EXPECT_TRUE(Done(Request::kAddMemReg, region, {memory}));
  EXPECT_TRUE(Done(Request::kAddMemReg, region, {memory}));
  EXPECT_FALSE(Done(Request::kAddMemReg, region, {another})) << "that is another region";
  SingleRegion shifted = region;
  shifted.region.user_address += 0x1000;
  EXPECT_FALSE(Done(Request::kAddMemReg, shifted, {memory}));
  PrepareRing(0);
  EXPECT_TRUE(Done(Request::kRemMemReg, region));
  EXPECT_TRUE(Done(Request::kRemMemReg, region));
  EXPECT_TRUE(Done(Request::kAddMemReg, region, {another}));
}

TEST_F(BackendMemoryTest, SlotsHaveAnEnd) {
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  for (uint64_t i = 0; i <= SharedMemory::kMaxSlots; ++i) {
    const SingleRegion region{0, {kGuest + i * kSize, kSize, kUser + i * kSize, 0}};
    EXPECT_EQ(Done(Request::kAddMemReg, region, {memory}), i < SharedMemory::kMaxSlots) << i;
  }
}

TEST_F(BackendMemoryTest, AddedRegionStopsNoRing) {
  RunRing();
  const auto before = state_->resources[0].memory;
  const UniqueFd memory = Memfd(kSize);
  const uint64_t distance = 2 * kSize;
  ASSERT_TRUE(Done(Request::kAddMemReg,
                   SingleRegion{0, {kGuest + distance, kSize, kUser + distance, 0}}, {memory}));
  EXPECT_EQ(state_->starts, 1);
  EXPECT_TRUE(state_->running[0]);
  const auto now = state_->resources[0].config.feed->memory();
  ASSERT_EQ(now->regions().size(), 2U);
  EXPECT_TRUE(now->Contains(mem::Gpa{kGuest + distance}, kSize));
  // What was mapped is where it was: adding costs as much as is added.
  EXPECT_EQ(now->regions()[0].host_address, before->regions()[0].host_address);
}

// The ring whose memory went away does not run; the other is not touched by that.
TEST_F(BackendMemoryTest, RegionUnderARunningRingGoesAway) {
  Negotiate();
  const UniqueFd memory = Memfd(kSize);
  const SingleRegion second{0, {kGuest + kSize, kSize, kUser + kSize, 0}};
  EXPECT_TRUE(Done(Request::kAddMemReg, SingleRegion{0, {kGuest, kSize, kUser, 0}}, {memory}));
  EXPECT_TRUE(Done(Request::kAddMemReg, second, {memory}));
  PrepareRing(0);
  ASSERT_TRUE(Done(Request::kSetVringNum, VringState{1, 256}));
  const uint64_t at = kUser + kSize;
  ASSERT_TRUE(Done(Request::kSetVringAddr, VringAddress{1, 0, at, at + 0x2000, at + 0x1000, 0}));
  for (uint32_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(Enable(i));
    EXPECT_TRUE(Kick(i));
    EXPECT_TRUE(state_->running[i]);
  }
  EXPECT_FALSE(Done(Request::kRemMemReg, second));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_FALSE(state_->running[1]);
}

TEST_F(BackendMemoryTest, LogThatItsFileDoesNotHoldEndsTheSession) {
  for (const LogArea area : {LogArea{0, 0}, LogArea{0x2000, 0}, LogArea{0x1000, 1},
                             LogArea{~uint64_t{0}, 0}, LogArea{0x1000, ~uint64_t{0}}}) {
    SetUp();
    Negotiate();
    const UniqueFd log = Memfd(0x1000);
    EXPECT_EQ(Send(Request::kSetLogBase, area, {log}).error(), Fault::kUnexpected);
  }
}

TEST_F(BackendMemoryTest, LoggingComesAndGoesUnderARunningRing) {
  RunRing();
  const UniqueFd log = Memfd(0x2000);
  auto told = EventFd::Create();
  const LogArea area{0x1000, 0x800};
  EXPECT_EQ(
      AskMessage(Request::kSetLogBase, std::as_bytes(std::span(&area, 1)), {log}).payload.size(),
      sizeof(uint64_t));
  EXPECT_TRUE(DoneBytes(Request::kSetLogFd, {}, {told->fd()}));
  EXPECT_EQ(state_->resources[0].config.maker, nullptr);
  const uint64_t features = virtio::kVersion1 | kFeatureProtocol;
  EXPECT_TRUE(Done(Request::kSetFeatures, features | kFeatureLogAll));
  EXPECT_TRUE(Done(Request::kSetVringAddr, AddressOf(0, kVringLog)));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_NE(state_->resources[0].config.maker, nullptr);
  EXPECT_TRUE(Done(Request::kSetFeatures, features));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_EQ(state_->resources[0].config.maker, nullptr);
  EXPECT_EQ(state_->features, virtio::kVersion1);
}

TEST_F(BackendMemoryTest, NothingIsLoggedWithoutALog) {
  RunRing();
  EXPECT_TRUE(Done(Request::kSetFeatures, virtio::kVersion1 | kFeatureProtocol | kFeatureLogAll));
  EXPECT_TRUE(state_->running[0]);
  EXPECT_EQ(state_->resources[0].config.maker, nullptr);
}

TEST(DirtyLogTest, MarksEveryPageOfARangeAndNoOther) {
  const UniqueFd file = *MakeMemfd("log", 0x3000);
  auto log = DirtyLog::Map(*file.Duplicate(), {0x10, 0x1808});
  ASSERT_TRUE(log.has_value()) << log.error().message();
  (*log)->Mark(0, 0);
  (*log)->Mark(0x1fff, 2);                   // pages 1 and 2
  (*log)->Mark(0x9000, 0x1000);              // page 9
  (*log)->Mark(0x7f000, 0x1000);             // the last one
  (*log)->Mark(0x7ffff, 2);                  // the last and one beyond
  (*log)->Mark(~uint64_t{0}, ~uint64_t{0});  // wraps
  const Mapping view = *Mapping::Create(0x3000, 1 /* PROT_READ */, 1 /* MAP_SHARED */, file);
  std::vector<size_t> set;
  for (size_t bit = 0; bit < 0x3000 * 8; ++bit) {
    if ((std::to_integer<unsigned>(view.data()[bit / 8]) >> (bit % 8) & 1U) != 0) {
      set.push_back(bit);
    }
  }
  const size_t base = 0x1808 * 8;
  EXPECT_EQ(set, (std::vector<size_t>{base + 1, base + 2, base + 9, base + 127}));
  EXPECT_EQ((*log)->missed(), 2U);
}

}  // namespace
}  // namespace wyvern::vhost_user
