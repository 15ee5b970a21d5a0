#include "virtio_mem/chunked_backing.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "virtio_mem/testing/mem_guest.h"

namespace wyvern::devices {
namespace {

using testing::MemGuest;

constexpr uint64_t kRegionStart = MemGuest::kStart;
constexpr uint64_t kMemBlock = MemGuest::kBlock;
constexpr uint64_t kChunk = 4 * kMemBlock;
constexpr uint64_t kChunks = 8;

// What the machine will do, with a memfd in place of KVM: each mapped chunk is a region of guest
// memory, and the list is published anew.
class FakeSlots final : public MemorySlots {
 public:
  FakeSlots() {
    std::vector<mem::RegionSpec> specs(1);
    specs[0].size = uint64_t{1} << 20U;
    specs[0].guest_ram = true;
    memory = *mem::GuestMemory::Create(std::move(specs));
    file = *MakeMemfd("hotplug", kChunks * kChunk);
  }

  Result<> Map(MemoryRange chunks) override {
    WV_TRY_VOID(Call("map", chunks));
    for (uint64_t at = 0; at < chunks.size; at += kChunk) {
      mem::RegionSpec spec;
      spec.start = mem::Gpa{mem::Raw(chunks.start) + at};
      spec.size = kChunk;
      WV_TRY(spec.fd, file.Duplicate());
      spec.fd_offset = mem::Raw(spec.start) - kRegionStart;
      spec.guest_ram = true;
      WV_TRY(memory, memory->WithRegion(std::move(spec)));
    }
    return {};
  }

  Result<> Unmap(MemoryRange chunks) override {
    WV_TRY_VOID(Call("unmap", chunks));
    for (uint64_t at = 0; at < chunks.size; at += kChunk) {
      WV_TRY(memory, memory->WithoutRegion(mem::Gpa{mem::Raw(chunks.start) + at}));
    }
    return {};
  }

  Result<> Free(MemoryRange range) override {
    calls.push_back(Name("free", range, kMemBlock));
    if (fail_free) {
      return Fail(Code::kInternal, "not now");
    }
    if (fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(mem::Raw(range.start) - kRegionStart),
                  static_cast<off_t>(range.size)) != 0) {
      return SysError("fallocate");
    }
    return {};
  }

  uint64_t HostBytes() const {
    struct stat status {};

    WV_CHECK(fstat(file.get(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }

  std::shared_ptr<const mem::GuestMemory> memory;
  UniqueFd file;
  std::vector<std::string> calls;
  int fail_at = -1;  // which of the following Map and Unmap calls fails
  bool fail_free = false;

 private:
  static std::string Name(const char* what, MemoryRange range, uint64_t unit) {
    return fmt::format("{} {}+{}", what, (mem::Raw(range.start) - kRegionStart) / unit,
                       range.size / unit);
  }

  Result<> Call(const char* what, MemoryRange chunks) {
    if (fail_at-- == 0) {
      return Fail(Code::kResourceExhausted, "no slots left");
    }
    calls.push_back(Name(what, chunks, kChunk));
    return {};
  }
};

class ChunkedBackingTest : public ::testing::Test {
 protected:
  ChunkedBackingTest() {
    auto slots = std::make_unique<FakeSlots>();
    slots_ = slots.get();
    backing_ = std::make_unique<ChunkedBacking>(
        ChunkLayout{.region = {.start = mem::Gpa{kRegionStart}, .size = kChunks * kChunk},
                    .block_size = kMemBlock,
                    .chunk_size = kChunk},
        std::move(slots));
  }

  static MemoryRange Blocks(uint64_t first, uint64_t count) {
    return {.start = mem::Gpa{kRegionStart + first * kMemBlock}, .size = count * kMemBlock};
  }

  std::vector<std::string> TakeCalls() { return std::exchange(slots_->calls, {}); }

  bool Reachable(uint64_t block) const {
    return slots_->memory->Contains(Blocks(block, 1).start, kMemBlock);
  }

  using Names = std::vector<std::string>;
  FakeSlots* slots_;
  std::unique_ptr<ChunkedBacking> backing_;
};

TEST_F(ChunkedBackingTest, NeighbouringChunksAreMappedWithOneCall) {
  ASSERT_TRUE(backing_->Plug(Blocks(3, 10)));
  EXPECT_EQ(TakeCalls(), Names{"map 0+4"});
  EXPECT_TRUE(Reachable(0) && Reachable(15));
  EXPECT_FALSE(Reachable(16));
}

TEST_F(ChunkedBackingTest, MappedChunksAreNotMappedAgain) {
  ASSERT_TRUE(backing_->Plug(Blocks(5, 1)));
  ASSERT_TRUE(backing_->Plug(Blocks(6, 1)));
  EXPECT_EQ(TakeCalls(), Names{"map 1+1"});
  ASSERT_TRUE(backing_->Plug(Blocks(3, 2)));
  ASSERT_TRUE(backing_->Plug(Blocks(7, 9)));
  EXPECT_EQ(TakeCalls(), (Names{"map 0+1", "map 2+2"}));
}

TEST_F(ChunkedBackingTest, Fc5793_UnplugOfTheLastBlockUnmapsItsSlot) {
  ASSERT_TRUE(backing_->Plug(Blocks(2, 4)));
  ASSERT_TRUE(slots_->memory->Write<uint32_t>(Blocks(2, 1).start, 0x1234U));
  ASSERT_TRUE(slots_->memory->Write<uint32_t>(Blocks(5, 1).start, 0x5678U));
  const auto old_list = slots_->memory;
  EXPECT_GT(slots_->HostBytes(), 0U);
  TakeCalls();
  ASSERT_TRUE(backing_->Unplug(Blocks(2, 3)));
  // Chunk 0 is empty and gone; of chunk 1 a block is left, with what is in it.
  EXPECT_EQ(TakeCalls(), (Names{"unmap 0+1", "free 2+3"}));
  EXPECT_FALSE(Reachable(2));
  EXPECT_EQ(slots_->memory->Read<uint32_t>(Blocks(5, 1).start).value(), 0x5678U);
  EXPECT_EQ(slots_->memory->Read<uint32_t>(Blocks(2, 1).start).error(), mem::MemFault::kOutOfRange);
  ASSERT_TRUE(backing_->Unplug(Blocks(5, 1)));
  EXPECT_EQ(TakeCalls(), (Names{"unmap 1+1", "free 5+1"}));
  EXPECT_FALSE(Reachable(5));
  EXPECT_EQ(slots_->HostBytes(), 0U);
  // Who still holds the old list reads zeros, not what was there.
  EXPECT_EQ(old_list->Read<uint32_t>(Blocks(5, 1).start).value(), 0U);
}

TEST_F(ChunkedBackingTest, UnplugAllUnmapsEachRunAndFreesWithOneCall) {
  ASSERT_TRUE(backing_->Plug(Blocks(0, 8)));
  ASSERT_TRUE(backing_->Plug(Blocks(30, 1)));
  TakeCalls();
  ASSERT_TRUE(backing_->UnplugAll());
  EXPECT_EQ(TakeCalls(), (Names{"unmap 0+2", "unmap 7+1", "free 0+32"}));
  ASSERT_TRUE(backing_->Plug(Blocks(0, 1)));
  EXPECT_EQ(TakeCalls(), Names{"map 0+1"});
}

TEST_F(ChunkedBackingTest, WhatCannotBeMappedOrUnmappedStaysAsItWas) {
  slots_->fail_at = 0;
  EXPECT_EQ(backing_->Plug(Blocks(0, 12)).error().code(), Code::kResourceExhausted);
  EXPECT_FALSE(Reachable(0));
  ASSERT_TRUE(backing_->Plug(Blocks(0, 12)));
  slots_->fail_at = 0;
  EXPECT_EQ(backing_->Unplug(Blocks(0, 12)).error().code(), Code::kResourceExhausted);
  EXPECT_TRUE(Reachable(0) && Reachable(11));
  EXPECT_EQ(TakeCalls(), Names{"map 0+3"});
  ASSERT_TRUE(backing_->Unplug(Blocks(0, 12)));
  EXPECT_EQ(TakeCalls(), (Names{"unmap 0+3", "free 0+12"}));
}

TEST_F(ChunkedBackingTest, RunThatCannotBeUnmappedUndoesTheEarlierOnes) {
  ASSERT_TRUE(backing_->Plug(Blocks(0, 1)));
  ASSERT_TRUE(backing_->Plug(Blocks(8, 1)));
  TakeCalls();
  slots_->fail_at = 1;
  EXPECT_EQ(backing_->UnplugAll().error().code(), Code::kResourceExhausted);
  EXPECT_EQ(TakeCalls(), (Names{"unmap 0+1", "map 0+1"}));
  EXPECT_TRUE(Reachable(0) && Reachable(8));
  ASSERT_TRUE(backing_->UnplugAll());
  EXPECT_EQ(TakeCalls(), (Names{"unmap 0+1", "unmap 2+1", "free 0+32"}));
}

TEST_F(ChunkedBackingTest, MemoryThatTheHostDoesNotTakeBackIsUnpluggedAllTheSame) {
  ASSERT_TRUE(backing_->Plug(Blocks(0, 4)));
  slots_->fail_free = true;
  ASSERT_TRUE(backing_->Unplug(Blocks(0, 4)));
  EXPECT_FALSE(Reachable(0));
  EXPECT_EQ(backing_->free_failures(), 1U);
}

// The whole way: requests of a driver, blocks, chunks, published memory.
TEST(MemDeviceOverChunksTest, PluggedBlocksAreOrdinaryMemoryAndUnpluggedOnesAreNotThere) {
  // VIRTIO §5.15.6.2: plugged memory can be read and written, and nobody else changes it; §5.15.5.2:
  // neither does a device reset.
  auto slots = std::make_unique<FakeSlots>();
  FakeSlots* published = slots.get();
  MemOptions options = MemGuest::Options();
  options.region.size = kChunks * kChunk;
  options.backing = std::make_unique<ChunkedBacking>(
      ChunkLayout{.region = options.region, .block_size = kMemBlock, .chunk_size = kMemBlock * 4},
      std::move(slots));
  MemGuest guest(std::move(options));
  guest.rig().Start();
  guest.Request(12);
  const auto block = [](uint64_t index) { return mem::Gpa{kRegionStart + index * kMemBlock}; };
  ASSERT_EQ(guest.Plug(0, 8), MemResponseType::kAck);
  ASSERT_TRUE(published->memory->Write<uint64_t>(block(1), 0x1122334455667788U));
  ASSERT_EQ(guest.Plug(8, 4), MemResponseType::kAck);
  ASSERT_EQ(guest.Unplug(4, 4), MemResponseType::kAck);
  EXPECT_EQ(guest.State(0, 12), MemBlockState::kMixed);
  guest.rig().core().WriteStatus(0);
  guest.rig().Start();
  EXPECT_EQ(published->memory->Read<uint64_t>(block(1)).value(), 0x1122334455667788U);
  EXPECT_EQ(published->memory->Read<uint64_t>(block(5)).error(), mem::MemFault::kOutOfRange);
  EXPECT_EQ(published->memory->Write<uint64_t>(block(12), 1).error(), mem::MemFault::kOutOfRange);
  ASSERT_EQ(guest.UnplugAll(), MemResponseType::kAck);
  EXPECT_EQ(published->memory->Read<uint64_t>(block(1)).error(), mem::MemFault::kOutOfRange);
  EXPECT_EQ(published->HostBytes(), 0U);
}

TEST_F(ChunkedBackingTest, RangeOutsideTheRegionAborts) {
  EXPECT_DEATH((void)backing_->Plug(Blocks(31, 2)), "CHECK failed");
}

}  // namespace
}  // namespace wyvern::devices
