// What an honest driver sees. Hostile drivers: split_queue_hostile_test.cc.
#include "virtio/split_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>

#include "base/event_fd.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;

std::string ReadAll(const Chain& chain) {
  std::string text(chain.readable_length(), '\0');
  EXPECT_TRUE(chain.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class SplitQueueTest : public ::testing::Test {
 protected:
  void Start(uint16_t size, uint64_t features = kRingFeatures,
             std::optional<QueueState> resume = std::nullopt) {
    driver_ = std::make_unique<FakeDriver>(ram_, size, features);
    if (resume) {
      driver_->StartAt(resume->next_available);
    }
    auto queue = Queue::Create(ram_.memory(), driver_->config(), features, resume);
    ASSERT_TRUE(queue);
    queue_ = *std::move(queue);
  }

  Chain MustPop() { return testing::MustPop(*queue_); }

  GuestRam ram_;
  std::unique_ptr<FakeDriver> driver_;
  std::unique_ptr<Queue> queue_;
};

TEST_F(SplitQueueTest, EmptyRingGivesNothing) {
  Start(8);
  auto chain = queue_->Pop();
  ASSERT_TRUE(chain);
  EXPECT_FALSE(*chain);
}

TEST_F(SplitQueueTest, ChainHasReadablePartThenWritablePart) {
  Start(8);
  const uint16_t head = driver_->Build().Readable("ab").Readable("cde").Writable(4).Submit();
  Chain chain = MustPop();
  EXPECT_EQ(chain.head(), head);
  EXPECT_EQ(chain.readable().size(), 2U);
  EXPECT_EQ(chain.readable_length(), 5U);
  EXPECT_EQ(chain.writable_length(), 4U);
  EXPECT_EQ(ReadAll(chain), "abcde");
  ASSERT_TRUE(chain.Write(1, Bytes("xyz")));
  queue_->Push(std::move(chain), 4);
  const testing::Used used = driver_->MustTakeUsed();
  EXPECT_EQ(used.head, head);
  EXPECT_EQ(used.written, 4U);
  EXPECT_EQ(driver_->Written(head, 4).substr(1), "xyz");
}

TEST_F(SplitQueueTest, IndirectChainReadsTheSameAsADirectOne) {
  Start(4);
  driver_->Build().Indirect().Readable("header").Writable(8).Writable(8).Submit();
  Chain chain = MustPop();
  EXPECT_EQ(ReadAll(chain), "header");
  EXPECT_EQ(chain.writable_length(), 16U);
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, IndirectTableOfQueueSizeEntriesIsAccepted) {
  Start(64);
  auto build = driver_->Build();
  build.Indirect();
  for (int i = 0; i < 64; ++i) {
    build.Readable("x");
  }
  build.Submit();
  Chain chain = MustPop();
  EXPECT_EQ(chain.readable().size(), 64U);
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, IndirectTableMayBeWalkedInAnyOrder) {
  Start(64);
  const mem::Gpa table = ram_.Allocate(uint64_t{16} * 40);
  const mem::Gpa text = ram_.Put("0123456789");
  const auto entry = [&](uint32_t index, uint64_t at, bool more, uint16_t next) {
    FakeDriver::WriteTable(ram_, table, index,
                           {.address = mem::Raw(text) + at,
                            .length = 1,
                            .flags = more ? testing::kNext : uint16_t{0},
                            .next = next});
  };
  entry(0, 0, true, 39);
  entry(39, 1, true, 20);
  entry(20, 2, true, 3);
  entry(3, 3, false, 0);
  driver_->WriteDescriptor(0, {mem::Raw(table), 16 * 40, testing::kIndirect, 0});
  driver_->MakeAvailable(0);
  Chain chain = MustPop();
  EXPECT_EQ(ReadAll(chain), "0123");
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, DirectDescriptorsMayBeFollowedByOneIndirectTable) {
  // VIRTIO §2.7.5.3.2: the device handles it.
  Start(8);
  const mem::Gpa table = ram_.Allocate(16);
  FakeDriver::WriteTable(ram_, table, 0, {mem::Raw(ram_.Put("tail")), 4, 0, 0});
  driver_->WriteDescriptor(0, {mem::Raw(ram_.Put("head-")), 5, testing::kNext, 1});
  driver_->WriteDescriptor(1, {mem::Raw(table), 16, testing::kIndirect, 0});
  driver_->MakeAvailable(0);
  Chain chain = MustPop();
  EXPECT_EQ(ReadAll(chain), "head-tail");
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, ZeroLengthDescriptorsCarryNothing) {
  Start(8);
  driver_->WriteDescriptor(0, {0xdead0000, 0, testing::kNext, 1});
  driver_->WriteDescriptor(1, {mem::Raw(ram_.Put("x")), 1, 0, 0});
  driver_->MakeAvailable(0);
  Chain chain = MustPop();
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_EQ(ReadAll(chain), "x");
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, ChainsMayComeBackInAnyOrder) {
  Start(8);
  const uint16_t first = driver_->Build().Writable(4).Submit();
  const uint16_t second = driver_->Build().Writable(4).Submit();
  Chain a = MustPop();
  Chain b = MustPop();
  queue_->Push(std::move(b), 2);
  queue_->Push(std::move(a), 1);
  EXPECT_EQ(driver_->MustTakeUsed().head, second);
  EXPECT_EQ(driver_->MustTakeUsed().head, first);
}

TEST_F(SplitQueueTest, UndoPopMakesTheSameChainComeAgain) {
  Start(8);
  driver_->Build().Readable("first").Submit();
  driver_->Build().Readable("second").Submit();
  queue_->Push(MustPop(), 0);
  queue_->UndoPop(MustPop());
  EXPECT_EQ(queue_->state().next_available, 1U);
  Chain again = MustPop();
  EXPECT_EQ(ReadAll(again), "second");
  queue_->Push(std::move(again), 0);
}

TEST_F(SplitQueueTest, IndicesWrapAround) {
  Start(4, kRingFeatures, QueueState{0xfffe, 0xfffe});
  for (int i = 0; i < 10; ++i) {
    const uint16_t head = driver_->Build().Writable(4).Submit();
    Chain chain = MustPop();
    queue_->Push(std::move(chain), 4);
    EXPECT_EQ(driver_->MustTakeUsed().head, head);
  }
  EXPECT_EQ(queue_->state().next_available, 8U);
  EXPECT_EQ(queue_->state().next_used, 8U);
}

TEST_F(SplitQueueTest, FullRingOfSize32768IsTaken) {
  GuestRam big(uint64_t{8} << 20);
  FakeDriver driver(big, 32768, kRingFeatures);
  auto queue = Queue::Create(big.memory(), driver.config(), kRingFeatures, std::nullopt);
  ASSERT_TRUE(queue);
  const mem::Gpa buffer = big.Allocate(16);
  for (uint32_t i = 0; i < 32768; ++i) {
    driver.Build().ReadableAt(buffer, 16).Submit();
  }
  for (uint32_t i = 0; i < 32768; ++i) {
    (*queue)->Push(testing::MustPop(**queue), 0);
  }
  EXPECT_FALSE(*(*queue)->Pop());
}

TEST_F(SplitQueueTest, StateOfAStoppedQueueResumesInANewOne) {
  Start(8);
  driver_->Build().Readable("one").Submit();
  driver_->Build().Readable("two").Submit();
  queue_->Push(MustPop(), 0);
  const QueueState state = queue_->state();
  queue_.reset();
  auto resumed = Queue::Create(ram_.memory(), driver_->config(), kRingFeatures, state);
  ASSERT_TRUE(resumed);
  queue_ = *std::move(resumed);
  Chain chain = MustPop();
  EXPECT_EQ(ReadAll(chain), "two");
  queue_->Push(std::move(chain), 0);
  EXPECT_EQ(driver_->MustTakeUsed().head, 0U);
  EXPECT_TRUE(driver_->TakeUsed());
}

TEST_F(SplitQueueTest, UsedIndexInRingIsWhatWasPushed) {
  Start(8);
  driver_->Build().Readable("one").Submit();
  queue_->Push(MustPop(), 0);
  EXPECT_EQ(*Queue::UsedIndexInRing(*ram_.memory(), driver_->config()), 1U);
}

TEST_F(SplitQueueTest, ChainOutlivingItsQueueMayBeDropped) {
  Start(8);
  driver_->Build().Readable("one").Submit();
  Chain chain = MustPop();
  queue_.reset();
  EXPECT_EQ(ReadAll(chain), "one");
}

TEST_F(SplitQueueTest, IovecsCoverExactlyTheRangeAskedFor) {
  Start(8);
  driver_->Build().Readable("abc").Readable("defg").Writable(3).Writable(5).Submit();
  Chain chain = MustPop();
  std::vector<iovec> parts;
  ASSERT_TRUE(chain.ReadableIovecs(2, 3, &parts));
  std::string text;
  for (const iovec& part : parts) {
    text.append(static_cast<const char*>(part.iov_base), part.iov_len);
  }
  EXPECT_EQ(text, "cde");
  parts.clear();
  ASSERT_TRUE(chain.WritableIovecs(0, 8, &parts));
  size_t total = 0;
  for (const iovec& part : parts) {
    total += part.iov_len;
  }
  EXPECT_EQ(total, 8U);
  queue_->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, BufferAcrossTwoAdjacentRegionsIsReadWhole) {
  // CVE-2019-18960: a buffer that spans regions must not be treated as one pointer.
  const GuestRam ram({{mem::Gpa{0x10000}, 0x10000}, {mem::Gpa{0x20000}, 0x10000}});
  GuestRam ring = ram;
  FakeDriver driver(ring, 8, 0);
  auto queue = Queue::Create(ring.memory(), driver.config(), 0, std::nullopt);
  ASSERT_TRUE(queue);
  const std::string text = "across the edge";
  ASSERT_TRUE(ring.memory()->WriteBytes(mem::Gpa{0x1fff8}, Bytes(text)));
  driver.Build().ReadableAt(mem::Gpa{0x1fff8}, static_cast<uint32_t>(text.size())).Submit();
  Chain chain = testing::MustPop(**queue);
  EXPECT_EQ(ReadAll(chain), text);
  (*queue)->Push(std::move(chain), 0);
}

TEST_F(SplitQueueTest, NoInterruptFlagSuppresses) {
  Start(8, 0);
  driver_->SetNoInterrupt(true);
  driver_->Build().Readable("x").Submit();
  queue_->Push(MustPop(), 0);
  EXPECT_FALSE(queue_->NeedsInterrupt());
  driver_->SetNoInterrupt(false);
  driver_->Build().Readable("x").Submit();
  queue_->Push(MustPop(), 0);
  EXPECT_TRUE(queue_->NeedsInterrupt());
  EXPECT_FALSE(queue_->NeedsInterrupt());
}

TEST_F(SplitQueueTest, EventIdxInterruptsOnlyWhenUsedEventIsPassed) {
  Start(8);
  const auto complete = [&] {
    driver_->Build().Readable("x").Submit();
    queue_->Push(MustPop(), 0);
    driver_->TakeUsed();
    return queue_->NeedsInterrupt();
  };
  driver_->SetUsedEvent(0);
  EXPECT_TRUE(complete());  // used 0 → 1 passes event 0
  driver_->SetUsedEvent(2);
  EXPECT_FALSE(complete());  // 1 → 2
  EXPECT_TRUE(complete());   // 2 → 3 passes event 2
  EXPECT_FALSE(complete());  // event is behind
}

TEST_F(SplitQueueTest, FirstCompletionAfterAResumeInterruptsWhateverTheEventSays) {
  Start(8, kRingFeatures, QueueState{7, 7});
  driver_->SetUsedEvent(100);
  driver_->Build().Readable("x").Submit();
  queue_->Push(MustPop(), 0);
  EXPECT_TRUE(queue_->NeedsInterrupt());
}

TEST_F(SplitQueueTest, NoNotifyFlagFollowsEnableAndDisable) {
  Start(8, 0);
  queue_->DisableNotification();
  EXPECT_EQ(driver_->UsedFlags(), 1U);
  EXPECT_FALSE(queue_->EnableNotification());
  EXPECT_EQ(driver_->UsedFlags(), 0U);
}

TEST_F(SplitQueueTest, AvailEventAsksForTheNextChainOnly) {
  Start(8);
  EXPECT_FALSE(queue_->EnableNotification());
  driver_->Build().Readable("x").Submit();
  EXPECT_TRUE(driver_->ShouldNotify());
  queue_->DisableNotification();
  EXPECT_EQ(driver_->UsedFlags(), 0U);
  driver_->Build().Readable("x").Submit();
  EXPECT_FALSE(driver_->ShouldNotify());
  EXPECT_TRUE(queue_->EnableNotification());  // two wait to be popped
  queue_->Push(MustPop(), 0);
  queue_->Push(MustPop(), 0);
  EXPECT_FALSE(queue_->EnableNotification());
  driver_->Build().Readable("x").Submit();
  EXPECT_TRUE(driver_->ShouldNotify());
  queue_->Push(MustPop(), 0);
}

TEST_F(SplitQueueTest, DisableTakesBackWhatAvailEventAskedFor) {
  for (const uint16_t start : {uint16_t{0}, uint16_t{65535}}) {
    Start(8, kRingFeatures, QueueState{start, start});
    EXPECT_FALSE(queue_->EnableNotification());
    queue_->DisableNotification();
    driver_->Build().Readable("x").Submit();
    EXPECT_FALSE(driver_->ShouldNotify());
    EXPECT_TRUE(queue_->EnableNotification());
    queue_->Push(MustPop(), 0);
  }
}

// A driver and a device thread that sleep whenever the suppression rules allow it: no wake-up may
// be lost.
TEST_F(SplitQueueTest, TwoThreadsWithEventIdxLoseNoNotification) {
  Start(16);
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  constexpr int kChains = 20000;
  const mem::Gpa buffer = ram_.Allocate(64);
  std::thread device([&] {
    int served = 0;
    while (served < kChains) {
      auto popped = queue_->Pop();
      ASSERT_TRUE(popped);
      if (std::optional<Chain>& chain = *popped; chain.has_value()) {
        queue_->Push(*std::move(chain), 0);
        if (++served % 3 == 0) {
          (void)queue_->EnableNotification();
          queue_->DisableNotification();
        }
      } else if (!queue_->EnableNotification()) {
        while (kick->Drain() == 0) {
          std::this_thread::yield();
        }
      }
    }
  });
  int sent = 0;
  int received = 0;
  while (received < kChains) {
    while (sent < kChains && driver_->free_descriptors() > 0) {
      driver_->Build().ReadableAt(buffer, 64).Submit();
      ++sent;
    }
    if (driver_->ShouldNotify()) {
      kick->Signal();
    }
    while (driver_->TakeUsed()) {
      ++received;
    }
  }
  device.join();
  EXPECT_EQ(queue_->state().next_used, static_cast<uint16_t>(kChains));
}

}  // namespace
}  // namespace wyvern::virtio
