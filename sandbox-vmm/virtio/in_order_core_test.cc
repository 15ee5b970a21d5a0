#include "virtio/in_order_core.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <vector>

namespace {

// Every order of finishing of `kChains` chains, each whole or in part: elements come in order, each
// chain once, and what is skipped was whole.
TEST(InOrderCoreTest, EveryOrderOfFinishingGivesTheChainsInTheirOrder) {
  constexpr uint16_t kChains = 5;
  std::array<uint16_t, kChains> order{};
  std::iota(order.begin(), order.end(), uint16_t{0});
  do {
    for (uint32_t whole = 0; whole < 1U << kChains; ++whole) {
      std::array<wv_in_order_entry, kChains> entries{};
      wv_in_order queue;
      wv_in_order_init(&queue, entries.data(), kChains);
      queue.first = static_cast<uint16_t>(whole % kChains);  // wherever the circle stands
      std::array<uint16_t, kChains> places{};
      for (uint16_t id = 0; id < kChains; ++id) {
        places[id] = wv_in_order_add(&queue, id, static_cast<uint16_t>(id + 1));
      }
      uint32_t slots = 0;
      uint16_t next = 0;
      for (const uint16_t id : order) {
        wv_in_order_finish(&queue, places[id], id, (whole >> id & 1U) != 0);
        for (wv_used_batch batch; wv_in_order_next(&queue, &batch);) {
          ASSERT_GE(batch.id, next);
          ASSERT_EQ(batch.written, batch.id);
          for (; next < batch.id; ++next) {
            ASSERT_NE(whole >> next & 1U, 0U);
          }
          ++next;
          slots += batch.slots;
          ASSERT_EQ(slots, next * (next + 1U) / 2U);
        }
      }
      ASSERT_EQ(next, kChains);
      ASSERT_EQ(queue.count, 0U);
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(InOrderCoreTest, OnlyTheNewestIsUndone) {
  std::array<wv_in_order_entry, 2> entries{};
  wv_in_order queue;
  wv_in_order_init(&queue, entries.data(), 2);
  EXPECT_FALSE(wv_in_order_undo(&queue, 0));
  const uint16_t first = wv_in_order_add(&queue, 7, 1);
  const uint16_t second = wv_in_order_add(&queue, 8, 1);
  EXPECT_FALSE(wv_in_order_undo(&queue, first));
  EXPECT_TRUE(wv_in_order_undo(&queue, second));
  EXPECT_TRUE(wv_in_order_undo(&queue, first));
  EXPECT_EQ(queue.count, 0U);
}

}  // namespace
