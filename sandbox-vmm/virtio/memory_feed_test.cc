// A queue that runs takes the memory of now with its next chain; what is in flight keeps its own.
#include "virtio/memory_feed.h"

#include <gtest/gtest.h>

#include <memory>

#include "virtio/feature_bits.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;
using testing::MustPop;

constexpr mem::Gpa kPlugged{uint64_t{1} << 32U};

class MemoryFeedTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    mem::RegionSpec spec;
    spec.start = kPlugged;
    spec.size = 1 << 16;
    larger_ = *ram_.memory()->WithRegion(std::move(spec));
    QueueConfig config = driver_.config();
    config.feed = feed_;
    queue_ = *Queue::Create(ram_.memory(), config, GetParam(), std::nullopt);
  }

  void Use(mem::Gpa address) { driver_.Build().WritableAt(address, 16).Submit(); }

  GuestRam ram_;
  FakeDriver driver_{ram_, 16, GetParam()};
  std::shared_ptr<MemoryFeed> feed_ = std::make_shared<MemoryFeed>(ram_.memory());
  std::shared_ptr<const mem::GuestMemory> larger_;
  std::unique_ptr<Queue> queue_;
};

TEST_P(MemoryFeedTest, MemoryComesAndGoesUnderAQueueThatRuns) {
  // One is in flight across both changes, and one storage is spare.
  Use(ram_.Allocate(16));
  Use(ram_.Allocate(16));
  Chain held = MustPop(*queue_);
  queue_->Push(MustPop(*queue_), 0);
  feed_->Publish(larger_);
  Use(kPlugged);
  Chain plugged = MustPop(*queue_);
  const std::byte value{9};
  ASSERT_TRUE(plugged.Write(0, std::span(&value, 1)));
  EXPECT_EQ(larger_->Read<uint8_t>(kPlugged).value_or(0), 9);
  feed_->Publish(ram_.memory());
  // What was popped keeps what it was popped with.
  ASSERT_TRUE(plugged.Write(1, std::span(&value, 1)));
  ASSERT_TRUE(held.Write(0, std::span(&value, 1)));
  Use(ram_.Allocate(16));
  queue_->Push(MustPop(*queue_), 1);
  queue_->Push(std::move(plugged), 2);
  queue_->Push(std::move(held), 1);
  Use(kPlugged);
  const auto gone = queue_->Pop();
  ASSERT_FALSE(gone.has_value());
  EXPECT_EQ(gone.error(), ChainFault::kBufferAddress);
}

// A storage that was popped before a change is not used again: it would keep what is gone mapped.
TEST_P(MemoryFeedTest, MemoryThatWentIsNotKept) {
  Use(ram_.Allocate(16));
  feed_->Publish(larger_);
  Chain held = MustPop(*queue_);
  std::weak_ptr<const mem::GuestMemory> watched = larger_;
  larger_.reset();
  feed_->Publish(ram_.memory());
  Use(ram_.Allocate(16));
  queue_->Push(MustPop(*queue_), 0);
  EXPECT_FALSE(watched.expired());
  queue_->Push(std::move(held), 0);
  EXPECT_TRUE(watched.expired());
}

INSTANTIATE_TEST_SUITE_P(Formats, MemoryFeedTest,
                         ::testing::Values(kVersion1, kVersion1 | kRingPacked));

}  // namespace
}  // namespace wyvern::virtio
