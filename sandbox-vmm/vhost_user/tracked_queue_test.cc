// The queue that keeps records: what it marks, and what it takes again.
#include "vhost_user/tracked_queue.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <deque>
#include <string>

#include "virtio/feature_bits.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::vhost_user {
namespace {

using virtio::testing::FakeDriver;
using virtio::testing::GuestRam;
using virtio::testing::MustPop;

constexpr uint16_t kSize = 8;

class TrackedQueueTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = InflightRegion::Create(1, kSize, 1);
    ASSERT_TRUE(made.has_value());
    region_ = std::move(made->region);
  }

  // As a back-end that begins, or takes over.
  void Begin(uint64_t features = 0) {
    Tracking tracking;
    const uint16_t used = driver_.UsedIndexInRing();
    virtio::QueueState state{used, used};
    tracking.inflight = region_->ring(0);
    auto recovered = tracking.inflight->Recover(used, kSize);
    ASSERT_TRUE(recovered.has_value());
    state.next_available = static_cast<uint16_t>(used + recovered->heads.size());
    tracking.resubmit = std::move(recovered->heads);
    Make(std::move(tracking), features, state);
  }

  void Make(Tracking tracking, uint64_t features, virtio::QueueState state) {
    virtio::QueueConfig config = driver_.config();
    config.maker = MakeTracked(std::move(tracking));
    auto queue = virtio::Queue::Create(ram_.memory(), config, features, state);
    ASSERT_TRUE(queue.has_value()) << virtio::ChainFaultName(queue.error());
    queue_ = *std::move(queue);
  }

  // The back-end is gone: what it has not given back, it never will.
  void Crash() {
    queue_.reset();
    held_.clear();
  }

  uint16_t PopHead() {
    held_.push_back(MustPop(*queue_));
    return held_.back().head();
  }

  void PushHead(uint16_t head) {
    for (auto it = held_.begin(); it != held_.end(); ++it) {
      if (it->head() == head) {
        virtio::Chain chain = std::move(*it);
        held_.erase(it);
        const uint32_t written = chain.writable_length() > 0 ? 1 : 0;
        queue_->Push(std::move(chain), written);
        return;
      }
    }
    FAIL() << "head " << head << " is not held";
  }

  bool Empty() {
    auto chain = queue_->Pop();
    EXPECT_TRUE(chain.has_value());
    return chain && !chain->has_value();
  }

  uint16_t Submit() { return driver_.Build().Readable("request").Writable(16).Submit(); }

  GuestRam ram_;
  FakeDriver driver_{ram_, kSize};
  std::unique_ptr<InflightRegion> region_;
  std::deque<virtio::Chain> held_;
  std::unique_ptr<virtio::Queue> queue_;  // last: chains outlive their queue
};

TEST_F(TrackedQueueTest, IsAQueueLikeAnother) {
  Begin();
  for (int i = 0; i < 100; ++i) {
    const uint16_t head = Submit();
    EXPECT_EQ(PopHead(), head);
    PushHead(head);
    EXPECT_EQ(driver_.MustTakeUsed().head, head);
    EXPECT_TRUE(Empty());
  }
  EXPECT_EQ(queue_->state().next_available, 100U);
  EXPECT_EQ(queue_->state().next_used, 100U);
  EXPECT_EQ(queue_->size(), kSize);
}

TEST_F(TrackedQueueTest, WhatACrashLeftIsTakenAgainFirst) {
  Begin();
  const uint16_t first = Submit();
  const uint16_t second = Submit();
  const uint16_t third = Submit();
  EXPECT_EQ(PopHead(), first);
  EXPECT_EQ(PopHead(), second);
  EXPECT_EQ(PopHead(), third);
  PushHead(second);
  Crash();
  EXPECT_EQ(driver_.MustTakeUsed().head, second);
  const uint16_t fourth = Submit();
  Begin();
  EXPECT_EQ(queue_->state().next_available, 3U);
  EXPECT_EQ(PopHead(), first);
  EXPECT_EQ(queue_->state().next_available, 3U);
  EXPECT_EQ(PopHead(), third);
  EXPECT_EQ(PopHead(), fourth);
  EXPECT_EQ(queue_->state().next_available, 4U);
  EXPECT_TRUE(Empty());
  PushHead(fourth);
  PushHead(third);
  PushHead(first);
  EXPECT_EQ(driver_.MustTakeUsed().head, fourth);
  EXPECT_EQ(driver_.MustTakeUsed().head, third);
  EXPECT_EQ(driver_.MustTakeUsed().head, first);
}

// The driver's own area is only read, and the ring wraps many times behind the heads.
TEST_F(TrackedQueueTest, RingGoesOnAroundBehindTheHeads) {
  driver_.StartAt(0xfff0);
  Begin();
  std::deque<uint16_t> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.push_back(Submit());
    PopHead();
  }
  for (int round = 0; round < 5; ++round) {
    Crash();
    Begin();
    for (const uint16_t head : waiting) {
      EXPECT_EQ(PopHead(), head);
    }
    for (int i = 0; i < 3 * kSize; ++i) {
      waiting.push_back(Submit());
      EXPECT_EQ(PopHead(), waiting.back());
      PushHead(waiting.front());
      EXPECT_EQ(driver_.MustTakeUsed().head, waiting.front());
      waiting.pop_front();
    }
    EXPECT_TRUE(Empty());
  }
}

TEST_F(TrackedQueueTest, CrashWithinTheHeadsLeavesThemAll) {
  Begin();
  const uint16_t first = Submit();
  const uint16_t second = Submit();
  PopHead();
  PopHead();
  Crash();
  Begin();
  EXPECT_EQ(PopHead(), first);
  Crash();
  Begin();
  // Taken once more, the first is the later one.
  EXPECT_EQ(PopHead(), second);
  EXPECT_EQ(PopHead(), first);
}

TEST_F(TrackedQueueTest, UndoneChainIsNotInFlight) {
  Begin();
  const uint16_t first = Submit();
  queue_->UndoPop(MustPop(*queue_));
  Crash();
  EXPECT_TRUE(region_->ring(0)->Recover(0, kSize)->heads.empty());
  Begin();
  EXPECT_EQ(PopHead(), first);
}

// Else it would be given twice.
TEST_F(TrackedQueueTest, ChainThatTheRecordHasIsPoppedNotAdopted) {
  Begin();
  const uint16_t head = Submit();
  EXPECT_EQ(PopHead(), head);
  queue_.reset();
  Begin();
  EXPECT_FALSE(queue_->Adopt(std::move(held_.front())));
  held_.clear();
  EXPECT_EQ(PopHead(), head);
  EXPECT_TRUE(Empty());
  PushHead(head);
  EXPECT_EQ(driver_.MustTakeUsed().head, head);
}

TEST_F(TrackedQueueTest, WishesOfTheDriverPassThrough) {
  Begin();
  Submit();
  PopHead();
  Crash();
  Begin();
  const uint16_t head = PopHead();
  EXPECT_TRUE(Empty());
  EXPECT_FALSE(queue_->EnableNotification());
  // What comes between looking and asking is seen.
  Submit();
  EXPECT_TRUE(queue_->EnableNotification());
  queue_->DisableNotification();
  EXPECT_EQ(driver_.UsedFlags(), 1U);
  driver_.SetNoInterrupt(true);
  PushHead(head);
  EXPECT_FALSE(queue_->NeedsInterrupt());
  driver_.SetNoInterrupt(false);
  PushHead(PopHead());
  EXPECT_TRUE(queue_->NeedsInterrupt());
}

TEST_F(TrackedQueueTest, RingThatBreaksIsBrokenBehindTheHeadsToo) {
  Begin();
  Submit();
  PopHead();
  Crash();
  Begin();
  PopHead();
  driver_.SetAvailableIndex(0x4000);
  EXPECT_EQ(queue_->Pop().error(), virtio::ChainFault::kAvailIndexJump);
  EXPECT_FALSE(queue_->EnableNotification());
}

// A record that names what the driver never made available is as harmless as a driver that does.
TEST_F(TrackedQueueTest, HeadsOfALyingRecordAreValidated) {
  auto ring = region_->ring(0);
  ASSERT_TRUE(ring->Recover(0, kSize));
  ring->Taken(6);
  driver_.WriteDescriptor(6, {0xffffffff00000000, 64, 0, 0});
  Begin();
  EXPECT_EQ(queue_->Pop().error(), virtio::ChainFault::kBufferAddress);
}

class DirtyRingTest : public TrackedQueueTest {
 protected:
  static constexpr uint64_t kPages = 512;  // all of GuestRam and what lies before it

  void Log(std::optional<uint64_t> used_log, virtio::QueueState state = {}) {
    const UniqueFd file = *MakeMemfd("log", kPages / 8);
    view_ = *Mapping::Create(kPages / 8, PROT_READ | PROT_WRITE, MAP_SHARED, file);
    Tracking tracking;
    tracking.log = *DirtyLog::Map(*file.Duplicate(), {kPages / 8, 0});
    tracking.used_log = used_log;
    tracking.logged = told_;
    Make(std::move(tracking), 0, state);
  }

  std::vector<uint64_t> TakeDirty() const {
    std::vector<uint64_t> pages;
    for (uint64_t page = 0; page < kPages; ++page) {
      if ((std::to_integer<unsigned>(view_.data()[page / 8]) >> (page % 8) & 1U) != 0) {
        pages.push_back(page);
      }
    }
    std::fill_n(view_.data(), kPages / 8, std::byte{0});
    return pages;
  }

  Mapping view_;
  std::shared_ptr<EventFd> told_ = std::make_shared<EventFd>(*EventFd::Create());
};

TEST_F(DirtyRingTest, WritableBuffersAreMarkedWhenTheyAreGivenBack) {
  Log(std::nullopt);
  const mem::Gpa in = ram_.Allocate(4096, 4096);
  const mem::Gpa out = ram_.Allocate(3 * 4096, 4096);
  driver_.Build().ReadableAt(in, 4096).WritableAt(out, 4097).Submit();
  const uint16_t head = PopHead();
  EXPECT_TRUE(TakeDirty().empty());
  PushHead(head);
  const uint64_t page = mem::Raw(out) / 4096;
  EXPECT_EQ(TakeDirty(), (std::vector<uint64_t>{page, page + 1}));
  EXPECT_EQ(told_->Drain(), 1U);
}

// A migration begins while a request waits.
TEST_F(DirtyRingTest, AdoptedChainIsMarkedWhenItIsGivenBack) {
  Log(std::nullopt);
  const mem::Gpa out = ram_.Allocate(4096, 4096);
  driver_.Build().WritableAt(out, 4096).Submit();
  const uint16_t head = PopHead();
  const virtio::QueueState state = queue_->state();
  queue_.reset();
  Log(std::nullopt, state);
  auto chain = queue_->Adopt(std::move(held_.front()));
  ASSERT_TRUE(chain);
  held_.front() = *std::move(chain);
  PushHead(head);
  EXPECT_EQ(TakeDirty(), (std::vector<uint64_t>{mem::Raw(out) / 4096}));
  EXPECT_EQ(driver_.MustTakeUsed().head, head);
}

TEST_F(DirtyRingTest, UsedRingIsMarkedWhereTheFrontEndSays) {
  constexpr uint64_t kLogPage = 300;
  Log(kLogPage * 4096 + 4096 - 4);
  driver_.Build().Readable("nothing to write").Submit();
  PushHead(PopHead());
  // Flags and index in one page, the first element in the next.
  EXPECT_EQ(TakeDirty(), (std::vector<uint64_t>{kLogPage, kLogPage + 1}));
  queue_->DisableNotification();
  EXPECT_EQ(TakeDirty(), (std::vector<uint64_t>{kLogPage, kLogPage + 1}));
}

TEST_F(DirtyRingTest, LogThatIsTooSmallStopsNothing) {
  Log(kPages * 4096);
  Submit();
  PushHead(PopHead());
  EXPECT_EQ(driver_.UsedIndexInRing(), 1U);
}

}  // namespace
}  // namespace wyvern::vhost_user
