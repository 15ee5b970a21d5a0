#include "virtio/packed_ring_core.h"

#include <gtest/gtest.h>

#include <vector>

namespace {

TEST(PackedRingCoreTest, SizesAreAnyUpTo32768) {
  EXPECT_FALSE(wv_packed_size_valid(0));
  EXPECT_TRUE(wv_packed_size_valid(1));
  EXPECT_TRUE(wv_packed_size_valid(3));
  EXPECT_TRUE(wv_packed_size_valid(32768));
  EXPECT_FALSE(wv_packed_size_valid(32769));
}

// The positions of a ring in their order.
std::vector<uint16_t> Circle(uint16_t size) {
  std::vector<uint16_t> circle;
  for (uint16_t slot = 0; slot < size; ++slot) {
    circle.push_back(static_cast<uint16_t>(WV_PACKED_WRAP | slot));
  }
  for (uint16_t slot = 0; slot < size; ++slot) {
    circle.push_back(slot);
  }
  return circle;
}

TEST(PackedRingCoreTest, PositionsGoRoundInACircleOfTwoLaps) {
  for (const uint16_t size : {1, 2, 3, 5, 8, 13}) {
    const auto circle = Circle(size);
    for (uint32_t from = 0; from < circle.size(); ++from) {
      for (uint32_t count = 0; count <= size; ++count) {
        const uint16_t to = circle[(from + count) % circle.size()];
        ASSERT_EQ(wv_packed_advance(circle[from], count, size), to);
        ASSERT_EQ(wv_packed_distance(to, circle[from], size), count);
        ASSERT_EQ(wv_packed_distance(circle[from], to, size), (2U * size - count) % (2U * size));
      }
    }
  }
}

TEST(PackedRingCoreTest, LargestRingFitsItsPositions) {
  EXPECT_EQ(wv_packed_advance(0xffff, 1, 32768), 0x0000U);
  EXPECT_EQ(wv_packed_advance(0x7fff, 1, 32768), 0x8000U);
  EXPECT_EQ(wv_packed_advance(0x8000, 32768, 32768), 0x0000U);
  EXPECT_EQ(wv_packed_distance(0x0000, 0x8000, 32768), 32768U);
}

TEST(PackedRingCoreTest, AvailableAndUsedExcludeEachOther) {
  for (uint32_t flags = 0; flags < 0x10000; ++flags) {
    for (const uint32_t position : {0x8000U, 0U}) {
      const bool available =
          wv_packed_is_available(static_cast<uint16_t>(flags), static_cast<uint16_t>(position));
      const bool used =
          wv_packed_is_used(static_cast<uint16_t>(flags), static_cast<uint16_t>(position));
      ASSERT_FALSE(available && used);
    }
  }
  for (const uint16_t position : {uint16_t{0x8000}, uint16_t{0}}) {
    EXPECT_TRUE(wv_packed_is_available(wv_packed_available_flags(position), position));
    EXPECT_TRUE(wv_packed_is_used(wv_packed_used_flags(position, 0), position));
    EXPECT_EQ(wv_packed_used_flags(position, 1) & WV_DESC_F_WRITE, WV_DESC_F_WRITE);
  }
}

TEST(PackedRingCoreTest, SignalIsTrueExactlyWhenTheEventWasAmongWhatWasUsed) {
  for (const uint16_t size : {1, 2, 3, 5}) {
    const auto circle = Circle(size);
    for (uint32_t from = 0; from < circle.size(); ++from) {
      for (uint32_t used = 1; used <= 3U * size; ++used) {
        for (uint32_t event = 0; event < circle.size(); ++event) {
          wv_packed queue;
          ASSERT_TRUE(wv_packed_init(&queue, size, circle[from], circle[from], true));
          queue.signalled = true;
          bool among = false;
          for (uint32_t i = 0; i < used; ++i) {
            wv_packed_take(&queue, 1);
            among = among || wv_packed_use(&queue, 1) == circle[event];
          }
          ASSERT_EQ(wv_packed_signal(&queue, WV_PACKED_EVENT_DESC, circle[event]), among);
        }
      }
    }
  }
}

// Walks to the end and tells whether every promise of the header held. `words`: what each fetch gives.
bool WalkKeepsItsPromisesOfPacked(const wv_packed& queue, const wv_packed_desc* words,
                                  size_t count) {
  wv_packed_walk walk;
  wv_packed_walk_begin(&walk, &queue, true);
  bool writable_seen = false;
  const uint32_t room = queue.size - queue.in_flight;
  for (unsigned steps = 0; !walk.done; ++steps) {
    if (steps > queue.size + 1U ||
        walk.index >= (walk.in_table ? walk.table_count : uint32_t{queue.size})) {
      return false;
    }
    const bool in_table = walk.in_table;
    const wv_walk_action action = wv_packed_walk_step(&walk, &words[steps % count]);
    if (action >= WV_WALK_FAULT) {
      return walk.done;
    }
    if ((action == WV_WALK_READABLE && writable_seen) || (action == WV_WALK_TABLE && in_table) ||
        walk.slots > room || walk.seen > queue.size ||
        uint64_t{walk.lengths.readable} + walk.lengths.writable > UINT32_MAX) {
      return false;
    }
    writable_seen = writable_seen || action == WV_WALK_WRITABLE;
  }
  return walk.slots >= 1;
}

TEST(PackedRingCoreTest, EveryWalkOfASmallRingKeepsItsPromises) {
  std::vector<wv_packed_desc> alphabet;
  for (uint16_t flags = 0; flags < 8; ++flags) {
    for (const uint32_t length : {0U, 16U, 32U, 48U, 0xfffffff0U, 0xffffffffU}) {
      alphabet.push_back({.addr = 0, .len = length, .id = 1, .flags = flags});
    }
  }
  size_t broken = 0;
  for (uint16_t in_flight = 0; in_flight <= 3; ++in_flight) {
    wv_packed queue;
    ASSERT_TRUE(wv_packed_init(&queue, 3, wv_packed_advance(0x8001, in_flight, 3), 0x8001, true));
    for (const wv_packed_desc& first : alphabet) {
      for (const wv_packed_desc& second : alphabet) {
        for (const wv_packed_desc& third : alphabet) {
          const wv_packed_desc words[] = {first, second, third};
          broken += WalkKeepsItsPromisesOfPacked(queue, words, 3) ? 0 : 1;
        }
      }
    }
  }
  EXPECT_EQ(broken, 0U);
}

}  // namespace
