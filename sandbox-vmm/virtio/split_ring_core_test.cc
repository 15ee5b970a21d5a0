#include "virtio/split_ring_core.h"

#include <gtest/gtest.h>

#include <vector>

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

TEST(SplitRingCoreTest, SignalAnswersAsNeedEventDoesFromTheSecondTimeOn) {
  for (uint32_t used = 1; used < 6; ++used) {
    for (uint32_t distance = 0; distance < 0x10000; ++distance) {
      wv_split queue;
      ASSERT_TRUE(wv_split_init(&queue, 8, 0xfffd, 0xfffd, true));
      queue.signalled = true;
      const uint16_t old_index = queue.next_used;
      const uint16_t new_index = wv_split_use(&queue, static_cast<uint16_t>(used));
      const auto event = static_cast<uint16_t>(old_index + distance);
      ASSERT_EQ(wv_split_signal(&queue, event), wv_ring_need_event(event, new_index, old_index));
    }
  }
}

TEST(SplitRingCoreTest, SignalAfterWholeLapsOfTheIndexIsNotLost) {
  wv_split queue;
  ASSERT_TRUE(wv_split_init(&queue, 8, 0, 0, true));
  queue.signalled = true;
  for (uint32_t i = 0; i < 0x20000; ++i) {
    wv_split_use(&queue, 1);
  }
  EXPECT_TRUE(wv_split_signal(&queue, 1234));
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
  EXPECT_EQ(walk.lengths.readable + walk.lengths.writable, 0xffffffffU);
}

// Every pair of descriptors in the ring against every pair in the indirect table, over the values
// that matter.
std::vector<wv_desc> Alphabet(std::initializer_list<uint32_t> lengths) {
  std::vector<wv_desc> all;
  for (uint16_t flags = 0; flags < 8; ++flags) {
    for (const uint32_t length : lengths) {
      for (uint16_t next = 0; next < 3; ++next) {
        all.push_back({.addr = 0, .len = length, .flags = flags, .next = next});
      }
    }
  }
  return all;
}

// Walks to the end and tells whether every promise of the header held.
bool WalkKeepsItsPromises(const wv_desc* ring, const wv_desc* table, uint16_t size) {
  wv_walk walk;
  if (!wv_walk_begin(&walk, 0, size, true)) {
    return false;
  }
  bool writable_seen = false;
  uint32_t buffers = 0;
  for (unsigned steps = 0; !walk.done; ++steps) {
    // At most `size` buffers, one table switch, and the fault that ends it.
    if (steps > size + 1U || walk.index >= walk.table_count) {
      return false;
    }
    const bool in_table = walk.in_table;
    // The table may be said to be longer than our two entries; the rest is like the first.
    const wv_desc& desc = in_table ? table[walk.index & 1U] : ring[walk.index];
    const wv_walk_action action = wv_walk_step(&walk, &desc);
    if (action >= WV_WALK_FAULT) {
      return walk.done;
    }
    buffers += action == WV_WALK_TABLE ? 0 : 1;
    if ((action == WV_WALK_READABLE && writable_seen) || (action == WV_WALK_TABLE && in_table) ||
        buffers != walk.seen || walk.seen > size ||
        uint64_t{walk.lengths.readable} + walk.lengths.writable > UINT32_MAX) {
      return false;
    }
    writable_seen = writable_seen || action == WV_WALK_WRITABLE;
  }
  return true;
}

TEST(SplitRingCoreTest, EveryWalkOfASmallRingKeepsItsPromises) {
  const auto ring_words = Alphabet({0, 32, 0xffffffff});
  const auto table_words = Alphabet({16, 0xfffffff0});
  size_t broken = 0;
  for (const wv_desc& first : ring_words) {
    for (const wv_desc& second : ring_words) {
      const wv_desc ring[2] = {first, second};
      const bool uses_table = ((first.flags | second.flags) & WV_DESC_F_INDIRECT) != 0;
      if (!uses_table) {
        broken += WalkKeepsItsPromises(ring, ring, 2) ? 0 : 1;
        continue;
      }
      for (const wv_desc& inner : table_words) {
        for (const wv_desc& last : table_words) {
          const wv_desc table[2] = {inner, last};
          broken += WalkKeepsItsPromises(ring, table, 2) ? 0 : 1;
        }
      }
    }
  }
  EXPECT_EQ(broken, 0U);
}

}  // namespace
