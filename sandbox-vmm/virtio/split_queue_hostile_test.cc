// Drivers that lie. Each test is named after the public fix or CVE whose fault it would repeat,
// where there is one.
#include <gtest/gtest.h>

#include "base/endian.h"
#include "virtio/split_queue.h"
#include "virtio/testing/hostile_ring.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;
using testing::kIndirect;
using testing::kNext;
using testing::kWrite;
using testing::MustPop;

class SplitQueueHostileTest : public testing::HostileRing<testing::SplitFormat> {
 protected:
  SplitQueueHostileTest() { Start(8, kRingIndirectDesc | kRingEventIdx); }
};

TEST_F(SplitQueueHostileTest, RustVmmVirtioQueue061_AvailJumpIsFault) {
  driver_->SetAvailableIndex(9);
  ExpectFault(ChainFault::kAvailIndexJump);
}

TEST_F(SplitQueueHostileTest, AvailIndexGoingBackwardsIsFault) {
  driver_->SetAvailableIndex(0xffff);
  ExpectFault(ChainFault::kAvailIndexJump);
}

TEST_F(SplitQueueHostileTest, HeadOutsideTheTableIsFault) {
  driver_->MakeAvailable(8);
  ExpectFault(ChainFault::kDescriptorIndex);
}

TEST_F(SplitQueueHostileTest, NextOutsideTheTableIsFault) {
  Offer({{Good(), 4, kNext, 8}});
  ExpectFault(ChainFault::kDescriptorIndex);
}

TEST_F(SplitQueueHostileTest, NextOutsideTheIndirectTableIsFault) {
  Offer({{Table({{Good(), 4, kNext, 1}}), 16, kIndirect, 0}});
  ExpectFault(ChainFault::kDescriptorIndex);
}

TEST_F(SplitQueueHostileTest, OpenVmmE375025c7_LoopedChainIsFault) {
  Offer({{Good(), 4, kNext, 1}, {Good(), 4, kNext, 0}});
  ExpectFault(ChainFault::kLoop);
}

TEST_F(SplitQueueHostileTest, LoopInsideAnIndirectTableIsFault) {
  Offer({{Table({{Good(), 4, kNext, 0}}), 16, kIndirect, 0}});
  ExpectFault(ChainFault::kLoop);
}

TEST_F(SplitQueueHostileTest, IndirectChainLongerThanTheQueueIsFault) {
  const mem::Gpa table = ram_.Allocate(uint64_t{16} * 9);
  for (uint16_t i = 0; i < 9; ++i) {
    FakeDriver::WriteTable(ram_, table, i, {Good(), 4, kNext, static_cast<uint16_t>(i + 1)});
  }
  Offer({{mem::Raw(table), 16 * 9, kIndirect, 0}});
  ExpectFault(ChainFault::kLoop);
}

TEST_F(SplitQueueHostileTest, OpenVmmE375025c7_DoublyIndirectChainIsFault) {
  const uint64_t inner = Table({{Good(), 4, 0, 0}});
  Offer({{Table({{inner, 16, kIndirect, 0}}), 16, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectNested);
}

TEST_F(SplitQueueHostileTest, Libvhost85805ee887_IndirectLengthNotOfWholeDescriptorsIsFault) {
  Offer({{Table({{Good(), 4, 0, 0}}), 17, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectLength);
}

TEST_F(SplitQueueHostileTest, IndirectTableOfLengthZeroIsFault) {
  Offer({{Table({{Good(), 4, 0, 0}}), 0, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectLength);
}

TEST_F(SplitQueueHostileTest, IndirectTableOf4GiBIsFault) {
  Offer({{Table({{Good(), 4, 0, 0}}), 0xfffffff0, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectLength);
}

TEST_F(SplitQueueHostileTest, IndirectTableThatEndsOutsideMemoryIsFault) {
  Offer({{GuestRam::kBase + (1 << 20) - 16, 32, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectAddress);
}

TEST_F(SplitQueueHostileTest, IndirectTableAddressOverflowIsFault) {
  Offer({{0xfffffffffffffff0, 32, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectAddress);
}

TEST_F(SplitQueueHostileTest, IndirectTogetherWithNextIsFault) {
  Offer({{Table({{Good(), 4, 0, 0}}), 16, kIndirect | kNext, 1}, {Good(), 4, 0, 0}});
  ExpectFault(ChainFault::kIndirectFlags);
}

TEST_F(SplitQueueHostileTest, IndirectThatWasNotNegotiatedIsFault) {
  Start(8, 0);
  Offer({{Table({{Good(), 4, 0, 0}}), 16, kIndirect, 0}});
  ExpectFault(ChainFault::kIndirectFlags);
}

TEST_F(SplitQueueHostileTest, ReadableAfterWritableIsFault) {
  Offer({{Good(), 4, kNext | kWrite, 1}, {Good(), 4, 0, 0}});
  ExpectFault(ChainFault::kWritableBeforeReadable);
}

TEST_F(SplitQueueHostileTest, DragonballA957054dd3_BufferThatStartsInsideAndEndsOutsideIsFault) {
  Offer({{GuestRam::kBase + (1 << 20) - 4, 8, kWrite, 0}});
  ExpectFault(ChainFault::kBufferAddress);
}

TEST_F(SplitQueueHostileTest, BufferAddressOverflowIsFault) {
  Offer({{0xffffffffffffffff, 2, 0, 0}});
  ExpectFault(ChainFault::kBufferAddress);
}

TEST_F(SplitQueueHostileTest, BufferInAHoleBetweenRegionsIsFault) {
  GuestRam ram({{mem::Gpa{0x10000}, 0x10000}, {mem::Gpa{0x40000}, 0x10000}});
  FakeDriver driver(ram, 8, 0);
  auto queue = Queue::Create(ram.memory(), driver.config(), 0, std::nullopt);
  ASSERT_TRUE(queue);
  driver.WriteDescriptor(0, {0x1f000, 0x22000, 0, 0});
  driver.MakeAvailable(0);
  auto chain = (*queue)->Pop();
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error(), ChainFault::kBufferAddress);
}

TEST_F(SplitQueueHostileTest, Firecracker4392a8d19_OverlappingDescriptorsBeyond4GiBAreFault) {
  // Many descriptors that share one big buffer: the sum must not pass 2^32 - 1.
  GuestRam ram(uint64_t{32} << 20);
  FakeDriver driver(ram, 256, 0);
  auto queue = Queue::Create(ram.memory(), driver.config(), 0, std::nullopt);
  ASSERT_TRUE(queue);
  for (uint16_t i = 0; i < 256; ++i) {
    driver.WriteDescriptor(
        i, {GuestRam::kBase, 17U << 20, i == 255 ? kWrite : uint16_t{kWrite | kNext},
            static_cast<uint16_t>(i + 1)});
  }
  driver.MakeAvailable(0);
  auto chain = (*queue)->Pop();
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error(), ChainFault::kTotalLength);
}

TEST_F(SplitQueueHostileTest, Cve202645782_SameHeadTwiceInFlightIsFault) {
  driver_->WriteDescriptor(0, {Good(), 4, kWrite, 0});
  driver_->MakeAvailable(0);
  driver_->MakeAvailable(0);
  ExpectSecondIsInFlight();
}

TEST_F(SplitQueueHostileTest, SameHeadAgainAfterItsCompletionIsFine) {
  driver_->WriteDescriptor(0, {Good(), 4, kWrite, 0});
  for (int i = 0; i < 3; ++i) {
    driver_->MakeAvailable(0);
    queue_->Push(MustPop(*queue_), 0);
  }
}

TEST_F(SplitQueueHostileTest, ChDoubleFetch929df76e1_DescriptorsRewrittenAfterPopChangeNothing) {
  Offer({{mem::Raw(ram_.Put("good")), 4, 0, 0}});
  Chain chain = MustPop(*queue_);
  driver_->WriteDescriptor(0, {0xdead0000dead0000, 0xffffffff, kWrite | kNext, 0xffff});
  EXPECT_EQ(TextOfChain(chain), "good");
  queue_->Push(std::move(chain), 0);
  EXPECT_EQ(driver_->MustTakeUsed().head, 0U);
}

TEST_F(SplitQueueHostileTest, ReadsAndWritesPastTheChainAreTooShort) {
  Offer({{Good(), 4, kNext, 1}, {Good(), 4, kWrite, 0}});
  Chain chain = MustPop(*queue_);
  std::array<std::byte, 5> five{};
  EXPECT_EQ(chain.Read(0, five).error(), ChainFault::kTooShort);
  EXPECT_EQ(chain.Read(4, std::span(five).first(1)).error(), ChainFault::kTooShort);
  EXPECT_EQ(chain.Read(0xffffffff, std::span(five).first(1)).error(), ChainFault::kTooShort);
  EXPECT_EQ(chain.Write(1, std::span(five).first(4)).error(), ChainFault::kTooShort);
  std::vector<iovec> parts(1);
  EXPECT_EQ(chain.ReadableIovecs(1, 4, &parts).error(), ChainFault::kTooShort);
  EXPECT_EQ(parts.size(), 1U);
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueHostileTest, Firecracker5485_IovecsAreUnchangedAfterAFault) {
  // The second buffer lies in read-only memory: legal to name, not to write.
  auto fd = MakeMemfd("ram", 0x20000);
  ASSERT_TRUE(fd);
  auto twin = fd->Duplicate();
  ASSERT_TRUE(twin);
  std::vector<mem::RegionSpec> specs;
  specs.push_back({.start = mem::Gpa{0x10000}, .size = 0x10000, .fd = *std::move(fd)});
  specs.push_back({.start = mem::Gpa{0x20000},
                   .size = 0x10000,
                   .fd = *std::move(twin),
                   .fd_offset = 0x10000,
                   .read_only = true});
  auto memory = mem::GuestMemory::Create(std::move(specs));
  ASSERT_TRUE(memory);
  const QueueConfig config{.size = 4,
                           .descriptor_area = mem::Gpa{0x10000},
                           .driver_area = mem::Gpa{0x11000},
                           .device_area = mem::Gpa{0x12000}};
  auto queue = Queue::Create(*memory, config, 0, std::nullopt);
  ASSERT_TRUE(queue);

  struct {
    Le64 address;
    Le32 length;
    Le16 flags;
    Le16 next;
  } wire[2];

  wire[0] = {uint64_t{0x13000}, 16U, kWrite | kNext, uint16_t{1}};
  wire[1] = {uint64_t{0x20000}, 16U, kWrite, uint16_t{0}};
  ASSERT_TRUE((*memory)->Write(mem::Gpa{0x10000}, wire));
  ASSERT_TRUE((*memory)->Write(mem::Gpa{0x11002}, Le16(1)));
  Chain chain = MustPop(**queue);
  std::vector<iovec> parts;
  EXPECT_EQ(chain.WritableIovecs(0, 32, &parts).error(), ChainFault::kBufferAddress);
  EXPECT_TRUE(parts.empty());
  std::array<std::byte, 32> data{};
  EXPECT_EQ(chain.Write(0, data).error(), ChainFault::kBufferAddress);
  (*queue)->Push(std::move(chain), 0);
}

TEST(SplitQueueCreateTest, RingsOutsideMemoryOrMisalignedAreFaults) {
  GuestRam ram;
  FakeDriver driver(ram, 8);
  const auto create = [&](const QueueConfig& config) {
    auto queue = Queue::Create(ram.memory(), config, 0, std::nullopt);
    return queue ? ChainFault{} : queue.error();
  };
  QueueConfig config = driver.config();
  config.descriptor_area = mem::Gpa{mem::Raw(config.descriptor_area) + 8};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.driver_area = mem::Gpa{GuestRam::kBase + (1 << 20) - 8};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.device_area = mem::Gpa{0xfffffffffffffffc};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.device_area = mem::Gpa{mem::Raw(config.device_area) + 2};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
}

TEST(SplitQueueCreateTest, SizesThatNoSplitRingHasAreFaults) {
  GuestRam ram;
  FakeDriver driver(ram, 8);
  for (const uint16_t size : {0, 3, 7, 9, 32769, 65535}) {
    QueueConfig config = driver.config();
    config.size = size;
    EXPECT_EQ(Queue::Create(ram.memory(), config, 0, std::nullopt).error(), ChainFault::kRingSize);
  }
}

TEST(SplitQueueDeathTest, ChainDroppedWhileItsQueueLivesAborts) {
  GuestRam ram;
  FakeDriver driver(ram, 8);
  auto queue = Queue::Create(ram.memory(), driver.config(), 0, std::nullopt);
  ASSERT_TRUE(queue);
  driver.Build().Readable("x").Submit();
  EXPECT_DEATH({ auto lost = (*queue)->Pop(); }, "CHECK failed");
}

TEST(SplitQueueDeathTest, ChainPushedToAnotherQueueAborts) {
  GuestRam ram;
  FakeDriver driver(ram, 8);
  auto queue = Queue::Create(ram.memory(), driver.config(), 0, std::nullopt);
  auto other = Queue::Create(ram.memory(), driver.config(), 0, std::nullopt);
  ASSERT_TRUE(queue && other);
  driver.Build().Readable("x").Submit();
  Chain chain = MustPop(**queue);
  EXPECT_DEATH((*other)->Push(std::move(chain), 0), "CHECK failed");
  // It was moved in the process that died. NOLINTNEXTLINE(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
  (*queue)->Push(std::move(chain), 0);
}

}  // namespace
}  // namespace wyvern::virtio
