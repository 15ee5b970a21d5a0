// Drivers of a packed ring that lie. Each test is named after the public fix or CVE whose fault it would
// repeat, where there is one. OpenVmm2983: the classic faults of packed rings.
#include <gtest/gtest.h>

#include "virtio/packed_queue.h"
#include "virtio/testing/hostile_ring.h"
#include "virtio/testing/ring_rig.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;
using testing::kIndirect;
using testing::kNext;
using testing::kWrite;
using testing::MustPop;
using testing::RawPacked;

constexpr uint16_t kAvail = testing::PackedFormat::kAvail;
constexpr uint16_t kUsedBit = WV_PACKED_F_USED;
constexpr uint64_t kAllPacked = kRingPacked | kRingIndirectDesc | kRingEventIdx;

class PackedQueueHostileTest : public testing::HostileRing<testing::PackedFormat> {
 protected:
  PackedQueueHostileTest() { Start(8); }

  void Start(uint16_t size, uint64_t features = kAllPacked) { HostileRing::Start(size, features); }
};

TEST_F(PackedQueueHostileTest, OpenVmm2983_NextSlotWrapsAtTheRingsEnd) {
  // A chain of three that begins in the last slot of a ring of five; the second lap's bits for what lies
  // beyond the end.
  Start(5);
  for (int i = 0; i < 4; ++i) {
    driver_->Build().Readable("x").Submit();
    queue_->Push(MustPop(*queue_), 0);
  }
  const uint64_t text = mem::Raw(ram_.Put("abc"));
  driver_->WritePacked(0, {text + 1, 1, 0, kNext | kUsedBit});
  driver_->WritePacked(1, {text + 2, 1, 9, kUsedBit});
  driver_->WritePacked(4, {text, 1, 0, kNext | kAvail});
  Chain chain = MustPop(*queue_);
  EXPECT_EQ(TextOfChain(chain), "abc");
  EXPECT_EQ(chain.head(), 9U);
  EXPECT_EQ(queue_->state().next_available, 2U);  // slot 2, wrap counter 0
  queue_->Push(std::move(chain), 0);
  EXPECT_EQ(queue_->state().next_used, 2U);
}

TEST_F(PackedQueueHostileTest, OpenVmm2983_NextInsideAnIndirectTableIsIgnored) {
  // Its length says how many there are: one, though it says "next"; two, though it does not.
  const uint64_t text = mem::Raw(ram_.Put("abc"));
  Offer({{Table({{text, 1, 7, kNext}, {text + 1, 1, 7, 0}}), 16, 3, kIndirect | kAvail},
         {Table({{text, 1, 0, 0}, {text + 1, 2, 0, 0}}), 32, 4, kIndirect | kAvail}});
  Chain one = MustPop(*queue_);
  Chain two = MustPop(*queue_);
  EXPECT_EQ(TextOfChain(one), "a");
  EXPECT_EQ(one.head(), 3U);  // an id inside the table means nothing
  EXPECT_EQ(TextOfChain(two), "abc");
  EXPECT_EQ(two.head(), 4U);
  queue_->Push(std::move(one), 0);
  queue_->Push(std::move(two), 0);
}

TEST_F(PackedQueueHostileTest, OpenVmm2983_SizesNeedBeNoPowerOfTwo) {
  for (const uint16_t size : {1, 3, 7, 100, 1000}) {
    Start(size);
    driver_->Build().Readable("x").Submit();
    queue_->Push(MustPop(*queue_), 0);
    EXPECT_EQ(driver_->MustTakeUsed().written, 0U);
  }
}

TEST_F(PackedQueueHostileTest, OpenVmm2983_SizesThatNoPackedRingHasAreFaults) {
  for (const uint16_t size : {0, 32769, 65535}) {
    QueueConfig config = driver_->config();
    config.size = size;
    EXPECT_EQ(Queue::Create(ram_.memory(), config, kRingPacked, std::nullopt).error(),
              ChainFault::kRingSize);
  }
}

TEST_F(PackedQueueHostileTest, OpenVmmE375025c7_IndirectInsideAnIndirectTableIsIgnored) {
  // Reserved there (§2.8.7): the buffer is one, and not a table.
  const uint64_t inner = Table({{0xdead0000, 4, 0, 0}});
  Offer({{Table({{inner, 16, 0, kIndirect}}), 16, 0, kIndirect | kAvail}});
  Chain chain = MustPop(*queue_);
  EXPECT_EQ(chain.readable_length(), 16U);
  queue_->Push(std::move(chain), 0);
}

TEST_F(PackedQueueHostileTest, ChainWithoutAnEndIsFault) {
  for (uint16_t slot = 0; slot < 8; ++slot) {
    driver_->WritePacked(slot, {Good(), 4, slot, kNext | kAvail});
  }
  ExpectFault(ChainFault::kLoop);
}

TEST_F(PackedQueueHostileTest, ChainInARingOfOneThatGoesOnIsFault) {
  Start(1);
  Offer({{Good(), 4, 0, kNext | kAvail}});
  ExpectFault(ChainFault::kLoop);
}

TEST_F(PackedQueueHostileTest, IndirectTableLongerThanTheQueueIsFault) {
  const mem::Gpa table = ram_.Allocate(uint64_t{16} * 9);
  Offer({{mem::Raw(table), 16 * 9, 0, kIndirect | kAvail}});
  ExpectFault(ChainFault::kLoop);
}

TEST_F(PackedQueueHostileTest, DescriptorsInFlightMadeAvailableAgainAreFault) {
  // All eight are popped; the driver turns them over as if they had been used.
  for (int i = 0; i < 8; ++i) {
    driver_->Build().Readable("x").Submit();
  }
  std::vector<Chain> held;
  held.reserve(8);
  for (int i = 0; i < 8; ++i) {
    held.push_back(MustPop(*queue_));
  }
  driver_->WritePacked(0, {Good(), 4, 99, kUsedBit});
  ExpectFault(ChainFault::kAvailIndexJump);
  for (Chain& chain : held) {
    queue_->Push(std::move(chain), 0);  // what is in flight still completes
  }
  EXPECT_EQ(driver_->MustTakeUsed().written, 0U);
}

TEST_F(PackedQueueHostileTest, ChainThatReachesIntoDescriptorsInFlightIsFault) {
  driver_->Build().Readable("x").Submit();
  Chain held = MustPop(*queue_);
  for (uint16_t slot = 1; slot < 8; ++slot) {
    driver_->WritePacked(slot, {Good(), 4, 9, kNext | kAvail});
  }
  ExpectFault(ChainFault::kAvailIndexJump);
  queue_->Push(std::move(held), 0);
}

TEST_F(PackedQueueHostileTest, Cve202645782_SameBufferIdTwiceInFlightIsFault) {
  Offer({{Good(), 4, 5, kWrite | kAvail}, {Good(), 4, 5, kWrite | kAvail}});
  ExpectSecondIsInFlight();
}

TEST_F(PackedQueueHostileTest, SameBufferIdAgainAfterItsCompletionIsFine) {
  driver_->WriteDescriptor(0, {Good(), 4, kWrite, 0});
  for (int i = 0; i < 20; ++i) {
    driver_->MakeAvailable(0);
    queue_->Push(MustPop(*queue_), 0);
  }
}

TEST_F(PackedQueueHostileTest, BufferIdIsAnySixteenBits) {
  Offer({{Good(), 4, 0xffff, kWrite | kAvail}});
  Chain chain = MustPop(*queue_);
  EXPECT_EQ(chain.head(), 0xffffU);
  queue_->Push(std::move(chain), 1);
  EXPECT_EQ(driver_->MustTakeUsed().head, 0xffffU);
}

TEST_F(PackedQueueHostileTest, DescriptorsOfTheOtherLapAreNotAvailable) {
  for (const uint32_t flags : {0U, WV_PACKED_F_USED, WV_PACKED_F_USED | WV_PACKED_F_AVAIL}) {
    Offer({{Good(), 4, 0, static_cast<uint16_t>(flags)}});
    auto chain = queue_->Pop();
    ASSERT_TRUE(chain);
    EXPECT_FALSE(*chain);
  }
}

TEST_F(PackedQueueHostileTest, Libvhost85805ee887_IndirectLengthsThatNoTableHasAreFaults) {
  for (const uint32_t length : {0U, 15U, 17U, 0xfffffff0U}) {
    Start(8);
    Offer({{Table({{Good(), 4, 0, 0}}), length, 0, kIndirect | kAvail}});
    ExpectFault(ChainFault::kIndirectLength);
  }
}

TEST_F(PackedQueueHostileTest, IndirectTablesOutsideMemoryAreFaults) {
  for (const uint64_t address : {GuestRam::kBase + (1 << 20) - 16, uint64_t{0xfffffffffffffff0}}) {
    Start(8);
    Offer({{address, 32, 0, kIndirect | kAvail}});
    ExpectFault(ChainFault::kIndirectAddress);
  }
}

TEST_F(PackedQueueHostileTest, IndirectTogetherWithNextIsFault) {
  Offer({{Table({{Good(), 4, 0, 0}}), 16, 0, kIndirect | kNext | kAvail}, {Good(), 4, 0, kAvail}});
  ExpectFault(ChainFault::kIndirectFlags);
}

TEST_F(PackedQueueHostileTest, IndirectLinkedByNextIsFault) {
  // §2.8.19: a list has descriptors of one kind.
  Offer({{Good(), 4, 0, kNext | kAvail}, {Table({{Good(), 4, 0, 0}}), 16, 0, kIndirect | kAvail}});
  ExpectFault(ChainFault::kIndirectFlags);
}

TEST_F(PackedQueueHostileTest, IndirectThatWasNotNegotiatedIsFault) {
  Start(8, kRingPacked);
  Offer({{Table({{Good(), 4, 0, 0}}), 16, 0, kIndirect | kAvail}});
  ExpectFault(ChainFault::kIndirectFlags);
}

TEST_F(PackedQueueHostileTest, ReadableAfterWritableIsFault) {
  Offer({{Good(), 4, 0, kNext | kWrite | kAvail}, {Good(), 4, 0, kAvail}});
  ExpectFault(ChainFault::kWritableBeforeReadable);
  Start(8);
  Offer({{Table({{Good(), 4, 0, kWrite}, {Good(), 4, 0, 0}}), 32, 0, kIndirect | kAvail}});
  ExpectFault(ChainFault::kWritableBeforeReadable);
}

TEST_F(PackedQueueHostileTest, DragonballA957054dd3_BuffersThatEndOutsideMemoryAreFaults) {
  const RawPacked outside[] = {{GuestRam::kBase + (1 << 20) - 4, 8, 0, kWrite | kAvail},
                               {0xffffffffffffffff, 2, 0, kAvail}};
  for (const RawPacked& descriptor : outside) {
    Start(8);
    Offer({descriptor});
    ExpectFault(ChainFault::kBufferAddress);
  }
}

TEST_F(PackedQueueHostileTest, Firecracker4392a8d19_OverlappingDescriptorsBeyond4GiBAreFault) {
  GuestRam ram(uint64_t{32} << 20);
  FakeDriver driver(ram, 256, kRingPacked);
  auto queue = Queue::Create(ram.memory(), driver.config(), kRingPacked, std::nullopt);
  ASSERT_TRUE(queue);
  for (uint16_t i = 0; i < 256; ++i) {
    const uint16_t more = i == 255 ? 0 : kNext;
    driver.WritePacked(
        i, {GuestRam::kBase, 17U << 20, 0, static_cast<uint16_t>(kWrite | kAvail | more)});
  }
  auto chain = (*queue)->Pop();
  ASSERT_FALSE(chain);
  EXPECT_EQ(chain.error(), ChainFault::kTotalLength);
}

TEST_F(PackedQueueHostileTest, ChDoubleFetch929df76e1_DescriptorsRewrittenAfterPopChangeNothing) {
  Offer(
      {{mem::Raw(ram_.Put("go")), 2, 0, kNext | kAvail}, {mem::Raw(ram_.Put("od")), 2, 6, kAvail}});
  Chain chain = MustPop(*queue_);
  for (uint16_t slot = 0; slot < 8; ++slot) {
    driver_->WritePacked(slot, {0xdead0000dead0000, 0xffffffff, 0xffff, 0xffff});
  }
  EXPECT_EQ(TextOfChain(chain), "good");
  queue_->Push(std::move(chain), 0);
  const auto used = driver_->ram().Read<std::array<uint8_t, 16>>(driver_->config().descriptor_area);
  EXPECT_EQ(used[12], 6U);  // the id
  EXPECT_EQ(queue_->state().next_used, 0x8002U);
}

TEST_F(PackedQueueHostileTest, EventsThatMakeNoSenseCostAnInterruptAndNotTheLackOfOne) {
  const auto complete = [&] {
    driver_->Build().Readable("x").Submit();
    queue_->Push(MustPop(*queue_), 0);
    EXPECT_TRUE(driver_->TakeUsed());
    return queue_->NeedsInterrupt();
  };
  const auto wish = [&](uint16_t event, uint16_t flags) {
    driver_->ram().Write(driver_->config().driver_area, std::array<uint16_t, 2>{event, flags});
  };
  EXPECT_TRUE(complete());
  wish(8, WV_PACKED_EVENT_DESC);  // a slot that the ring has not
  EXPECT_TRUE(complete());
  wish(0xffff, WV_PACKED_EVENT_DESC);
  EXPECT_TRUE(complete());
  wish(0, 3);  // reserved
  EXPECT_TRUE(complete());
  wish(0, 0xfffc | WV_PACKED_EVENT_DISABLE);  // reserved bits beside one that is not
  EXPECT_FALSE(complete());
}

TEST_F(PackedQueueHostileTest, DescriptorEventsWithoutEventIdxMeanAlways) {
  Start(8, kRingPacked);
  driver_->ram().Write(driver_->config().driver_area,
                       std::array<uint16_t, 2>{0x8005, WV_PACKED_EVENT_DESC});
  for (int i = 0; i < 3; ++i) {
    driver_->Build().Readable("x").Submit();
    queue_->Push(MustPop(*queue_), 0);
    EXPECT_TRUE(queue_->NeedsInterrupt());
  }
}

TEST(PackedQueueCreateTest, RingsOutsideMemoryOrMisalignedAreFaults) {
  GuestRam ram;
  FakeDriver driver(ram, 8, kRingPacked);
  const auto create = [&](const QueueConfig& config) {
    auto queue = Queue::Create(ram.memory(), config, kRingPacked, std::nullopt);
    return queue ? ChainFault{} : queue.error();
  };
  EXPECT_EQ(create(driver.config()), ChainFault{});
  QueueConfig config = driver.config();
  config.descriptor_area = mem::Gpa{mem::Raw(config.descriptor_area) + 8};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.descriptor_area = mem::Gpa{GuestRam::kBase + (1 << 20) - 112};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.driver_area = mem::Gpa{mem::Raw(config.driver_area) + 2};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
  config = driver.config();
  config.device_area = mem::Gpa{0xfffffffffffffffc};
  EXPECT_EQ(create(config), ChainFault::kRingAddress);
}

TEST(PackedQueueCreateTest, StatesThatTheRingCannotHaveAreFaults) {
  GuestRam ram;
  FakeDriver driver(ram, 5, kRingPacked);
  const auto create = [&](QueueState state) {
    auto queue = Queue::Create(ram.memory(), driver.config(), kRingPacked, state);
    return queue ? ChainFault{} : queue.error();
  };
  EXPECT_EQ(create({0x8004, 0x8000}), ChainFault{});
  EXPECT_EQ(create({0x0000, 0x8000}), ChainFault{});            // all five in flight
  EXPECT_EQ(create({0x0001, 0x8000}), ChainFault::kRingState);  // six of five
  EXPECT_EQ(create({0x8000, 0x8001}), ChainFault::kRingState);  // used before available
  EXPECT_EQ(create({0x8005, 0x8000}), ChainFault::kRingState);  // slot 5
  EXPECT_EQ(create({0x8000, 0x7fff}), ChainFault::kRingState);
}

TEST(PackedQueueDeathTest, ChainDroppedWhileItsQueueLivesAborts) {
  testing::RingRig rig(8, kRingPacked);
  rig.Build().Readable("x").Submit();
  EXPECT_DEATH({ auto lost = rig.queue().Pop(); }, "CHECK failed");
}

TEST(PackedQueueDeathTest, UndoOfAChainThatIsNotTheLastAborts) {
  testing::RingRig rig(8, kRingPacked);
  rig.Build().Readable("x").Submit();
  rig.Build().Readable("y").Submit();
  Chain first = rig.Pop();
  Chain second = rig.Pop();
  EXPECT_DEATH(rig.queue().UndoPop(std::move(first)), "CHECK failed");
  rig.DropQueue();
}

}  // namespace
}  // namespace wyvern::virtio
