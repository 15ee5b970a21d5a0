#include "virtio/split_ring_core.h"

#include <gtest/gtest.h>

namespace {

TEST(SplitRingCoreTest, SizesArePowersOfTwoUpTo32768) {
  EXPECT_FALSE(wv_ring_size_valid(0));
  EXPECT_TRUE(wv_ring_size_valid(1));
  EXPECT_FALSE(wv_ring_size_valid(3));
  EXPECT_TRUE(wv_ring_size_valid(32768));
  EXPECT_FALSE(wv_ring_size_valid(65536));
}

TEST(SplitRingCoreTest, AreaSizesCountTheEventFields) {
  EXPECT_EQ(wv_ring_descriptor_bytes(256), 4096U);
  EXPECT_EQ(wv_ring_driver_bytes(256), 6U + 512U);
  EXPECT_EQ(wv_ring_device_bytes(256), 6U + 2048U);
  EXPECT_EQ(wv_ring_used_event(256) + 2, wv_ring_driver_bytes(256));
  EXPECT_EQ(wv_ring_avail_event(256) + 2, wv_ring_device_bytes(256));
}

TEST(SplitRingCoreTest, NeedEventIsTrueExactlyWhenTheEventIndexWasPassed) {
  // Every event position against a window that wraps.
  for (uint32_t start : {0U, 0x7fffU, 0xfffeU}) {
    for (uint32_t added = 0; added < 5; ++added) {
      const auto old_index = static_cast<uint16_t>(start);
      const auto new_index = static_cast<uint16_t>(start + added);
      for (uint32_t distance = 0; distance < 0x10000; ++distance) {
        const auto event = static_cast<uint16_t>(start + distance);
        ASSERT_EQ(wv_ring_need_event(event, new_index, old_index), distance < added);
      }
    }
  }
}

TEST(SplitRingCoreTest, HeadOutsideTheTableIsRefused) {
  wv_walk walk;
  EXPECT_TRUE(wv_walk_begin(&walk, 7, 8, true));
  EXPECT_FALSE(wv_walk_begin(&walk, 8, 8, true));
}

TEST(SplitRingCoreTest, WalkThatLoopsEndsAfterAsManyBuffersAsTheQueueHas) {
  wv_walk walk;
  ASSERT_TRUE(wv_walk_begin(&walk, 0, 8, true));
  const wv_desc self = {.addr = 0, .len = 1, .flags = WV_DESC_F_NEXT, .next = 0};
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(wv_walk_step(&walk, &self), WV_WALK_READABLE);
  }
  EXPECT_EQ(wv_walk_step(&walk, &self), WV_WALK_FAULT_LOOP);
  EXPECT_TRUE(walk.done);
}

TEST(SplitRingCoreTest, LoopOfEmptyDescriptorsEndsToo) {
  wv_walk walk;
  ASSERT_TRUE(wv_walk_begin(&walk, 0, 4, true));
  const wv_desc self = {.addr = 0, .len = 0, .flags = WV_DESC_F_NEXT, .next = 0};
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(wv_walk_step(&walk, &self), WV_WALK_EMPTY);
  }
  EXPECT_EQ(wv_walk_step(&walk, &self), WV_WALK_FAULT_LOOP);
}

TEST(SplitRingCoreTest, WriteFlagOfAnIndirectDescriptorIsIgnored) {
  // VIRTIO §2.7.5.3.2
  wv_walk walk;
  ASSERT_TRUE(wv_walk_begin(&walk, 0, 4, true));
  const wv_desc table = {
      .addr = 0, .len = 32, .flags = WV_DESC_F_INDIRECT | WV_DESC_F_WRITE, .next = 0};
  EXPECT_EQ(wv_walk_step(&walk, &table), WV_WALK_TABLE);
  EXPECT_EQ(walk.table_count, 2U);
  const wv_desc readable = {.addr = 0, .len = 1, .flags = 0, .next = 0};
  EXPECT_EQ(wv_walk_step(&walk, &readable), WV_WALK_READABLE);
  EXPECT_TRUE(walk.done);
}

TEST(SplitRingCoreTest, TotalOfExactlyTheLimitIsAccepted) {
  wv_walk walk;
  ASSERT_TRUE(wv_walk_begin(&walk, 0, 4, true));
  const wv_desc first = {.addr = 0, .len = 0xfffffffe, .flags = WV_DESC_F_NEXT, .next = 1};
  const wv_desc last = {.addr = 0, .len = 1, .flags = WV_DESC_F_WRITE, .next = 0};
  EXPECT_EQ(wv_walk_step(&walk, &first), WV_WALK_READABLE);
  EXPECT_EQ(wv_walk_step(&walk, &last), WV_WALK_WRITABLE);
  EXPECT_EQ(walk.readable_length + walk.writable_length, 0xffffffffU);
}

}  // namespace
