// Who notifies whom, and when not: both formats, with EVENT_IDX and without.
#include <gtest/gtest.h>

#include "virtio/queue.h"
#include "virtio/testing/ring_rig.h"

namespace wyvern::virtio {
namespace {

using testing::RingName;
using testing::RingRig;
using testing::RingsWith;

constexpr auto kNameOfRing = [](const auto& info) { return RingName(info.param); };

// A chain goes through; whether its driver gets an interrupt.
bool Complete(RingRig& rig) {
  rig.Build().Readable("x").Submit();
  rig.queue().Push(rig.Pop(), 0);
  EXPECT_TRUE(rig.driver().TakeUsed());
  return rig.queue().NeedsInterrupt();
}

// Without EVENT_IDX there are flags.
class FlagSuppressionTest : public ::testing::TestWithParam<uint64_t> {};

INSTANTIATE_TEST_SUITE_P(Rings, FlagSuppressionTest,
                         ::testing::ValuesIn(RingsWith(0, kRingEventIdx)), kNameOfRing);

TEST_P(FlagSuppressionTest, NoInterruptFlagSuppresses) {
  RingRig rig(8, GetParam());
  rig.driver().SetNoInterrupt(true);
  EXPECT_FALSE(Complete(rig));
  rig.driver().SetNoInterrupt(false);
  EXPECT_TRUE(Complete(rig));
  EXPECT_FALSE(rig.queue().NeedsInterrupt());
}

TEST_P(FlagSuppressionTest, NotificationFollowsEnableAndDisable) {
  RingRig rig(8, GetParam());
  rig.queue().DisableNotification();
  EXPECT_EQ(rig.driver().UsedFlags(), 1U);
  rig.Build().Readable("x").Submit();
  EXPECT_FALSE(rig.driver().ShouldNotify());
  EXPECT_TRUE(rig.queue().EnableNotification());  // one waits to be popped
  EXPECT_EQ(rig.driver().UsedFlags(), 0U);
  rig.queue().Push(rig.Pop(), 0);
  EXPECT_FALSE(rig.queue().EnableNotification());
  rig.Build().Readable("x").Submit();
  EXPECT_TRUE(rig.driver().ShouldNotify());
  rig.queue().Push(rig.Pop(), 0);
}

class EventSuppressionTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  static bool Packed() { return (GetParam() & kRingPacked) != 0; }
};

INSTANTIATE_TEST_SUITE_P(Rings, EventSuppressionTest, ::testing::ValuesIn(RingsWith(kRingEventIdx)),
                         kNameOfRing);

TEST_P(EventSuppressionTest, InterruptComesOnlyWhenTheEventIsPassed) {
  RingRig rig(8, GetParam());
  rig.driver().SetUsedEvent(rig.At(0));
  EXPECT_TRUE(Complete(rig));  // used 0 → 1 passes event 0
  rig.driver().SetUsedEvent(rig.At(2));
  EXPECT_FALSE(Complete(rig));  // 1 → 2
  EXPECT_TRUE(Complete(rig));   // 2 → 3 passes event 2
  EXPECT_FALSE(Complete(rig));  // event is behind
}

TEST_P(EventSuppressionTest, InterruptComesAlsoAfterTheRingsEnd) {
  RingRig rig(4, GetParam());
  for (uint32_t i = 0; i < 20; ++i) {
    rig.driver().SetUsedEvent(rig.At(i));
    EXPECT_TRUE(Complete(rig)) << i;
    rig.driver().SetUsedEvent(rig.At(i));
    EXPECT_FALSE(rig.queue().NeedsInterrupt()) << i;
  }
}

TEST_P(EventSuppressionTest, OneInterruptIsForTheWholeBatch) {
  RingRig rig(8, GetParam());
  rig.driver().SetUsedEvent(rig.At(0));
  EXPECT_TRUE(Complete(rig));
  rig.driver().SetUsedEvent(rig.At(3));
  for (int i = 0; i < 4; ++i) {
    rig.Build().Readable("x").Submit();
  }
  for (int i = 0; i < 4; ++i) {
    rig.queue().Push(rig.Pop(), 0);
  }
  EXPECT_TRUE(rig.queue().NeedsInterrupt());
  EXPECT_FALSE(rig.queue().NeedsInterrupt());
}

TEST_P(EventSuppressionTest, FirstCompletionAfterAResumeInterruptsWhateverTheEventSays) {
  const auto start = static_cast<uint16_t>(Packed() ? 0x8007 : 7);
  RingRig rig(8, GetParam(), {start, start});
  rig.driver().SetUsedEvent(rig.At(5));
  EXPECT_TRUE(Complete(rig));
}

TEST_P(EventSuppressionTest, AvailEventAsksForTheNextChainOnly) {
  RingRig rig(8, GetParam());
  EXPECT_FALSE(rig.queue().EnableNotification());
  rig.Build().Readable("x").Submit();
  EXPECT_TRUE(rig.driver().ShouldNotify());
  rig.queue().DisableNotification();
  rig.Build().Readable("x").Submit();
  EXPECT_FALSE(rig.driver().ShouldNotify());
  EXPECT_TRUE(rig.queue().EnableNotification());  // two wait to be popped
  rig.queue().Push(rig.Pop(), 0);
  rig.queue().Push(rig.Pop(), 0);
  EXPECT_FALSE(rig.queue().EnableNotification());
  rig.Build().Readable("x").Submit();
  EXPECT_TRUE(rig.driver().ShouldNotify());
  rig.queue().Push(rig.Pop(), 0);
}

TEST_P(EventSuppressionTest, DisableWritesNothingWhereTheDriverHasPassedTheEvent) {
  RingRig rig(8, GetParam());
  EXPECT_FALSE(rig.queue().EnableNotification());
  const uint16_t flags = rig.driver().UsedFlags();
  const uint16_t event = rig.driver().AvailEvent();
  rig.Build().Readable("x").Submit();
  rig.queue().DisableNotification();
  rig.queue().Push(rig.Pop(), 0);
  rig.queue().DisableNotification();
  EXPECT_EQ(rig.driver().UsedFlags(), flags);
  EXPECT_EQ(rig.driver().AvailEvent(), event);
}

TEST_P(EventSuppressionTest, DisableTakesBackWhatWasAskedFor) {
  const auto last = static_cast<uint16_t>(Packed() ? 0x8007 : 65535);
  for (const uint16_t start : {Queue::StartState(GetParam()).next_available, last}) {
    RingRig rig(8, GetParam(), {start, start});
    EXPECT_FALSE(rig.queue().EnableNotification());
    rig.queue().DisableNotification();
    rig.Build().Readable("x").Submit();
    EXPECT_FALSE(rig.driver().ShouldNotify());
    EXPECT_TRUE(rig.queue().EnableNotification());
    rig.queue().Push(rig.Pop(), 0);
  }
}

TEST(SplitSuppressionTest, FlagsMeanNothingWithEventIdx) {
  // VIRTIO §2.7.7.2: the driver's are ignored; §2.7.10.2: ours are 0.
  RingRig rig(8, kRingEventIdx);
  rig.driver().SetNoInterrupt(true);
  rig.driver().SetUsedEvent(rig.At(0));
  EXPECT_TRUE(Complete(rig));
  rig.driver().SetUsedEvent(rig.At(1));
  EXPECT_TRUE(Complete(rig));
  rig.queue().DisableNotification();
  EXPECT_EQ(rig.driver().UsedFlags(), 0U);
  EXPECT_FALSE(rig.queue().EnableNotification());
  EXPECT_EQ(rig.driver().UsedFlags(), 0U);
}

TEST(SplitSuppressionTest, EventMeansNothingWithoutEventIdx) {
  // VIRTIO §2.7.7.2
  RingRig rig(8, 0);
  for (const uint16_t event : {uint16_t{100}, uint16_t{0xffff}}) {
    rig.driver().SetUsedEvent(event);
    EXPECT_TRUE(Complete(rig));
  }
}

TEST(PackedSuppressionTest, InterruptCoversEveryDescriptorOfAChain) {
  // The event may lie in the middle of a chain, for which one descriptor is used only.
  for (uint32_t event = 0; event < 5; ++event) {
    RingRig rig(7, kRingPacked | kRingEventIdx);
    EXPECT_TRUE(Complete(rig));
    rig.driver().SetUsedEvent(rig.At(1 + event));
    rig.Build().Readable("a").Readable("b").Writable(1).Submit();
    rig.queue().Push(rig.Pop(), 1);
    EXPECT_EQ(rig.queue().NeedsInterrupt(), event < 3) << event;
  }
}

TEST(PackedSuppressionTest, LinuxStyleDelayedEventIsHonoured) {
  // Three quarters of what is in flight, as the net driver asks; across the ring's end.
  RingRig rig(8, kRingPacked | kRingEventIdx, {0x8006, 0x8006});
  EXPECT_TRUE(Complete(rig));
  for (int i = 0; i < 8; ++i) {
    rig.Build().Readable("x").Submit();
  }
  rig.driver().SetUsedEvent(rig.At(1 + 6));
  for (int i = 0; i < 8; ++i) {
    rig.queue().Push(rig.Pop(), 0);
    EXPECT_EQ(rig.queue().NeedsInterrupt(), i == 6) << i;
  }
}

}  // namespace
}  // namespace wyvern::virtio
