// What only split rings have, with an honest driver; the rest: queue_test.cc.
#include "virtio/split_queue.h"

#include <gtest/gtest.h>

#include "virtio/testing/ring_rig.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::RingRig;

std::string TextOf(const Chain& chain) {
  std::string text(chain.readable_length(), '\0');
  EXPECT_TRUE(chain.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

TEST(SplitQueueTest, IndirectTableMayBeWalkedInAnyOrder) {
  RingRig rig(64, kRingIndirectDesc);
  const mem::Gpa table = rig.ram().Allocate(uint64_t{16} * 40);
  const mem::Gpa text = rig.ram().Put("0123456789");
  const auto entry = [&](uint32_t index, uint64_t at, bool more, uint16_t next) {
    FakeDriver::WriteTable(rig.ram(), table, index,
                           {.address = mem::Raw(text) + at,
                            .length = 1,
                            .flags = more ? testing::kNext : uint16_t{0},
                            .next = next});
  };
  entry(0, 0, true, 39);
  entry(39, 1, true, 20);
  entry(20, 2, true, 3);
  entry(3, 3, false, 0);
  rig.driver().WriteDescriptor(0, {mem::Raw(table), 16 * 40, testing::kIndirect, 0});
  rig.driver().MakeAvailable(0);
  Chain chain = rig.Pop();
  EXPECT_EQ(TextOf(chain), "0123");
  rig.queue().Push(std::move(chain), 0);
}

TEST(SplitQueueTest, DirectDescriptorsMayBeFollowedByOneIndirectTable) {
  // VIRTIO §2.7.5.3.2: the device handles it.
  RingRig rig(8, kRingIndirectDesc);
  const mem::Gpa table = rig.ram().Allocate(16);
  FakeDriver::WriteTable(rig.ram(), table, 0, {mem::Raw(rig.ram().Put("tail")), 4, 0, 0});
  rig.driver().WriteDescriptor(0, {mem::Raw(rig.ram().Put("head-")), 5, testing::kNext, 1});
  rig.driver().WriteDescriptor(1, {mem::Raw(table), 16, testing::kIndirect, 0});
  rig.driver().MakeAvailable(0);
  Chain chain = rig.Pop();
  EXPECT_EQ(TextOf(chain), "head-tail");
  rig.queue().Push(std::move(chain), 0);
}

TEST(SplitQueueTest, UsedIndexInRingIsWhatWasPushed) {
  RingRig rig(8, kRingIndirectDesc);
  rig.driver().Build().Readable("one").Submit();
  rig.queue().Push(rig.Pop(), 0);
  EXPECT_EQ(*Queue::UsedIndexInRing(*rig.ram().memory(), rig.driver().config()), 1U);
}

}  // namespace
}  // namespace wyvern::virtio
