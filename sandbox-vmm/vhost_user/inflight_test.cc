// The record of what is in flight, by the steps of the spec.
#include "vhost_user/inflight.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

namespace wyvern::vhost_user {
namespace {

class InflightTest : public ::testing::Test {
 protected:
  static constexpr uint16_t kQueues = 2;
  static constexpr uint16_t kDescriptors = 8;

  void SetUp() override {
    auto made = InflightRegion::Create(kQueues, kDescriptors, kQueues);
    ASSERT_TRUE(made.has_value());
    fd_ = std::move(made->fd);
    area_ = made->area;
    view_ = *Mapping::Create(area_.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_);
  }

  // As the next back-end sees it.
  std::unique_ptr<InflightRing> Ring(uint16_t index = 0) const {
    auto region = InflightRegion::Map(*fd_.Duplicate(), area_, kQueues);
    EXPECT_TRUE(region.has_value());
    return (*region)->ring(index);
  }

  template <typename T>
  T Field(size_t at) const {
    T value;
    std::memcpy(&value, view_.data() + at, sizeof(T));
    return value;
  }

  template <typename T>
  void SetField(size_t at, T value) const {
    std::memcpy(view_.data() + at, &value, sizeof(T));
  }

  UniqueFd fd_;
  InflightArea area_;
  Mapping view_;
};

TEST_F(InflightTest, LayoutIsThatOfTheSpec) {
  auto ring = Ring();
  ASSERT_TRUE(ring->Recover(9, kDescriptors));
  EXPECT_EQ(Field<uint64_t>(0), 0U);  // features
  EXPECT_EQ(Field<uint16_t>(8), 1U);  // version
  EXPECT_EQ(Field<uint16_t>(10), kDescriptors);
  EXPECT_EQ(Field<uint16_t>(14), 9U);  // used_idx
  ring->Taken(3);
  ring->Taken(5);
  EXPECT_EQ(Field<uint8_t>(16 + 3 * 16), 1U);
  EXPECT_EQ(Field<uint64_t>(16 + 3 * 16 + 8), 0U);
  EXPECT_EQ(Field<uint64_t>(16 + 5 * 16 + 8), 1U);
  ring->BeforeUsed(5);
  EXPECT_EQ(Field<uint16_t>(12), 5U);  // last_batch_head
  EXPECT_EQ(Field<uint8_t>(16 + 5 * 16), 1U);
  ring->AfterUsed(5, 10);
  EXPECT_EQ(Field<uint8_t>(16 + 5 * 16), 0U);
  EXPECT_EQ(Field<uint16_t>(14), 10U);
  // The other queue has its own.
  ASSERT_TRUE(Ring(1)->Recover(0, kDescriptors));
  EXPECT_EQ(Field<uint16_t>(area_.mmap_size / 2 + 8), 1U);
}

TEST_F(InflightTest, NewMemoryHasNothing) {
  const auto recovered = Ring()->Recover(0, kDescriptors);
  ASSERT_TRUE(recovered.has_value());
  EXPECT_TRUE(recovered->fresh);
  EXPECT_TRUE(recovered->heads.empty());
}

TEST_F(InflightTest, WhatIsInFlightComesBackInOrder) {
  auto ring = Ring();
  ASSERT_TRUE(ring->Recover(0, kDescriptors));
  for (const uint16_t head : {uint16_t{6}, uint16_t{2}, uint16_t{7}, uint16_t{0}}) {
    ring->Taken(head);
  }
  ring->BeforeUsed(2);
  ring->AfterUsed(2, 1);
  ring->Undone(0);
  auto next = Ring();
  const auto recovered = next->Recover(1, kDescriptors);
  ASSERT_TRUE(recovered.has_value());
  EXPECT_FALSE(recovered->fresh);
  EXPECT_EQ(recovered->heads, (std::vector<uint16_t>{6, 7}));
  // Those that come after are behind them the next time, too.
  next->Taken(1);
  EXPECT_EQ(Ring()->Recover(1, kDescriptors)->heads, (std::vector<uint16_t>{6, 7, 1}));
}

// A crash after each store of giving a chain back: `published` says whether the ring's used index
// had moved.
TEST_F(InflightTest, CrashAtAnyStepLosesNothingAndRepeatsNothing) {
  for (const bool published : {false, true}) {
    SetUp();
    auto ring = Ring();
    ASSERT_TRUE(ring->Recover(100, kDescriptors));
    ring->Taken(4);
    ring->Taken(1);
    ring->BeforeUsed(1);
    const auto recovered = Ring()->Recover(published ? 101 : 100, kDescriptors);
    ASSERT_TRUE(recovered.has_value());
    EXPECT_EQ(recovered->heads,
              published ? std::vector<uint16_t>{4} : (std::vector<uint16_t>{4, 1}));
  }
}

TEST_F(InflightTest, UsedIndexWraps) {
  auto ring = Ring();
  ASSERT_TRUE(ring->Recover(0xffff, kDescriptors));
  ring->Taken(4);
  ring->BeforeUsed(4);
  const auto recovered = Ring()->Recover(0, kDescriptors);
  ASSERT_TRUE(recovered.has_value());
  EXPECT_TRUE(recovered->heads.empty());
  EXPECT_FALSE(recovered->fresh);
}

TEST_F(InflightTest, RingThatBeganAnewOwesNothingToTheOldOne) {
  auto ring = Ring();
  ASSERT_TRUE(ring->Recover(500, kDescriptors));
  ring->Taken(4);
  const auto recovered = Ring()->Recover(0, kDescriptors);
  ASSERT_TRUE(recovered.has_value());
  EXPECT_TRUE(recovered->fresh);
  EXPECT_TRUE(Ring()->Recover(0, kDescriptors)->heads.empty());
}

TEST_F(InflightTest, SmallerRingsFitAndLargerOnesDoNot) {
  EXPECT_TRUE(Ring()->Recover(0, kDescriptors / 2));
  EXPECT_FALSE(Ring()->Recover(0, kDescriptors * 2));
  EXPECT_EQ(Ring(kQueues), nullptr);
}

TEST_F(InflightTest, MemoryThatMakesNoSenseIsRefused) {
  ASSERT_TRUE(Ring()->Recover(0, kDescriptors));
  SetField<uint16_t>(12, kDescriptors);  // last_batch_head outside
  EXPECT_FALSE(Ring()->Recover(1, kDescriptors));
  SetField<uint16_t>(12, 0);
  SetField<uint16_t>(16 + 6, 0xffff);  // its next, too
  EXPECT_TRUE(Ring()->Recover(1, kDescriptors));
  EXPECT_FALSE(Ring()->Recover(3, kDescriptors));
  SetField<uint16_t>(8, 2);  // version
  EXPECT_FALSE(Ring()->Recover(1, kDescriptors));
  SetField<uint16_t>(8, 1);
  SetField<uint16_t>(10, 4);  // desc_num
  EXPECT_FALSE(Ring()->Recover(1, kDescriptors));
}

// A list that loops ends with the batch.
TEST_F(InflightTest, LoopInTheListEnds) {
  ASSERT_TRUE(Ring()->Recover(0, kDescriptors));
  for (uint16_t head = 0; head < kDescriptors; ++head) {
    SetField<uint8_t>(16U + head * 16U, 1);
    SetField<uint16_t>(16U + head * 16U + 6, static_cast<uint16_t>(head ^ 1U));
  }
  const auto recovered = Ring()->Recover(kDescriptors, kDescriptors);
  ASSERT_TRUE(recovered.has_value());
  EXPECT_EQ(recovered->heads, (std::vector<uint16_t>{2, 3, 4, 5, 6, 7}));
}

}  // namespace
}  // namespace wyvern::vhost_user
