// The order in which chains come back: any, or with IN_ORDER that in which they were made available.
#include <gtest/gtest.h>

#include "virtio/queue.h"
#include "virtio/testing/ring_rig.h"

namespace wyvern::virtio {
namespace {

using testing::RingName;
using testing::RingRig;
using testing::RingsWith;

constexpr auto kOrderName = [](const auto& info) { return RingName(info.param); };

class AnyOrderTest : public ::testing::TestWithParam<uint64_t> {};

INSTANTIATE_TEST_SUITE_P(Rings, AnyOrderTest, ::testing::ValuesIn(RingsWith(0, kInOrder)),
                         kOrderName);

TEST_P(AnyOrderTest, ChainsMayComeBackInAnyOrder) {
  RingRig rig(8, GetParam());
  const uint16_t first = rig.Build().Writable(2).Writable(2).Submit();
  const uint16_t second = rig.Build().Writable(4).Submit();
  Chain a = rig.Pop();
  Chain b = rig.Pop();
  rig.queue().Push(std::move(b), 2);
  rig.queue().Push(std::move(a), 1);
  EXPECT_EQ(rig.driver().MustTakeUsed().head, second);
  EXPECT_EQ(rig.driver().MustTakeUsed().head, first);
}

class InOrderTest : public ::testing::TestWithParam<uint64_t> {};

INSTANTIATE_TEST_SUITE_P(Rings, InOrderTest, ::testing::ValuesIn(RingsWith(kInOrder)), kOrderName);

TEST_P(InOrderTest, ChainPushedTooEarlyIsHeldBack) {
  RingRig rig(8, GetParam());
  const uint16_t first = rig.Build().Writable(4).Submit();
  const uint16_t second = rig.Build().Writable(4).Submit();
  Chain a = rig.Pop();
  rig.queue().Push(rig.Pop(), 2);
  EXPECT_FALSE(rig.driver().TakeUsed());
  EXPECT_FALSE(rig.queue().NeedsInterrupt());
  rig.queue().Push(std::move(a), 1);
  EXPECT_TRUE(rig.queue().NeedsInterrupt());
  const testing::Used one = rig.driver().MustTakeUsed();
  EXPECT_EQ(one.head, first);
  EXPECT_EQ(one.written, 1U);
  const testing::Used two = rig.driver().MustTakeUsed();
  EXPECT_EQ(two.head, second);
  EXPECT_EQ(two.written, 2U);
  EXPECT_FALSE(rig.driver().TakeUsed());
}

TEST_P(InOrderTest, ChainsUsedCompletelyComeBackAsOneElement) {
  RingRig rig(8, GetParam());
  const uint16_t heads[] = {rig.Build().Readable("a").Submit(),
                            rig.Build().Readable("b").Writable(4).Submit(),
                            rig.Build().Writable(4).Submit()};
  Chain first = rig.Pop();
  Chain second = rig.Pop();
  rig.queue().Push(rig.Pop(), 3);
  rig.queue().Push(std::move(second), 4);
  rig.queue().Push(std::move(first), 0);
  const uint32_t written[] = {0, 4, 3};
  for (int i = 0; i < 3; ++i) {
    const testing::Used used = rig.driver().MustTakeUsed();
    EXPECT_EQ(used.head, heads[i]);
    EXPECT_EQ(used.written, written[i]);
  }
  EXPECT_EQ(rig.driver().elements(), 1U);
  EXPECT_EQ(rig.queue().state().next_used, rig.queue().state().next_available);
}

TEST_P(InOrderTest, ChainWrittenInPartEndsItsBatch) {
  // The driver takes what was skipped for written to its end (§2.7.9, §2.8.8).
  RingRig rig(8, GetParam());
  for (int i = 0; i < 3; ++i) {
    rig.Build().Writable(4).Submit();
  }
  Chain first = rig.Pop();
  Chain second = rig.Pop();
  rig.queue().Push(rig.Pop(), 4);
  rig.queue().Push(std::move(second), 1);
  rig.queue().Push(std::move(first), 4);
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 4U);
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 1U);
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 4U);
  EXPECT_EQ(rig.driver().elements(), 2U);
}

TEST_P(InOrderTest, ChainsPushedInOrderComeBackAtOnce) {
  RingRig rig(4, GetParam());
  for (int round = 0; round < 20; ++round) {
    const uint16_t head = rig.Build().Writable(4).Submit();
    rig.queue().Push(rig.Pop(), 4);
    EXPECT_EQ(rig.driver().MustTakeUsed().head, head);
  }
  EXPECT_EQ(rig.driver().elements(), 20U);
}

TEST_P(InOrderTest, UndonePopLeavesTheOrderAsItWas) {
  RingRig rig(4, GetParam());
  const uint16_t first = rig.Build().Writable(4).Submit();
  const uint16_t second = rig.Build().Writable(4).Submit();
  Chain a = rig.Pop();
  rig.queue().UndoPop(rig.Pop());
  rig.queue().Push(rig.Pop(), 4);
  EXPECT_FALSE(rig.driver().TakeUsed());
  rig.queue().Push(std::move(a), 4);
  EXPECT_EQ(rig.driver().MustTakeUsed().head, first);
  EXPECT_EQ(rig.driver().MustTakeUsed().head, second);
}

TEST_P(InOrderTest, ChainThatIsHeldBackIsStillInFlight) {
  RingRig rig(8, GetParam());
  rig.Build().Writable(4).Submit();
  const uint16_t second = rig.Build().Writable(4).Submit();
  Chain a = rig.Pop();
  rig.queue().Push(rig.Pop(), 4);
  rig.driver().MakeAvailable(second);
  auto again = rig.queue().Pop();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), ChainFault::kHeadInFlight);
  rig.queue().Push(std::move(a), 4);
}

}  // namespace
}  // namespace wyvern::virtio
