#include "vsock/byte_queue.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

namespace wyvern::devices {
namespace {

TEST(ByteQueueTest, EmptyOneHoldsNoMemory) {
  ByteQueue queue;
  EXPECT_EQ(queue.capacity(), 0U);
  queue.Extend(0);
  EXPECT_EQ(queue.capacity(), 0U);
  queue.Extend(10'000);
  EXPECT_GE(queue.capacity(), 10'000U);
  queue.Consume(10'000);
  EXPECT_EQ(queue.capacity(), 0U);
}

TEST(ByteQueueTest, CapacityIsTheNextPowerOfTwoWhateverWentThrough) {
  ByteQueue queue;
  for (int i = 0; i < 1000; ++i) {
    queue.Extend(200'000 - queue.size());
    EXPECT_EQ(queue.capacity(), size_t{256} << 10U);
    queue.Consume(1 + static_cast<size_t>(i) * 37 % 1000);
  }
}

TEST(ByteQueueTest, BytesComeOutAsTheyWentIn) {
  std::mt19937 random(3);
  ByteQueue queue;
  std::deque<std::byte> expected;
  uint8_t next = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0 && expected.size() < 5000) {
      const size_t count = random() % 700;
      size_t written = 0;
      for (const auto piece : queue.Extend(count)) {
        for (std::byte& to : piece) {
          to = std::byte{next++};
          expected.push_back(to);
        }
        written += piece.size();
      }
      ASSERT_EQ(written, count);
    } else {
      const size_t count = random() % 700;
      size_t seen = 0;
      for (const auto piece : queue.Front(count)) {
        for (const std::byte byte : piece) {
          ASSERT_EQ(byte, expected[seen]);
          ++seen;
        }
      }
      ASSERT_EQ(seen, std::min(count, expected.size()));
      queue.Consume(seen);
      expected.erase(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(seen));
    }
    ASSERT_EQ(queue.size(), expected.size());
  }
}

}  // namespace
}  // namespace wyvern::devices
