// What an honest driver sees, over every kind of ring. Hostile drivers: *_hostile_test.cc; suppression:
// queue_suppression_test.cc; the order of use: queue_order_test.cc.
#include "virtio/queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "base/event_fd.h"
#include "virtio/testing/ring_rig.h"

namespace wyvern::virtio {
namespace {

using testing::EveryRing;
using testing::FakeDriver;
using testing::GuestRam;
using testing::RingName;
using testing::RingRig;

std::string ReadAll(const Chain& chain) {
  std::string text(chain.readable_length(), '\0');
  EXPECT_TRUE(chain.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class QueueTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  static bool Packed() { return (GetParam() & kRingPacked) != 0; }
};

INSTANTIATE_TEST_SUITE_P(Rings, QueueTest, ::testing::ValuesIn(EveryRing()),
                         [](const auto& info) { return RingName(info.param); });

TEST_P(QueueTest, EmptyRingGivesNothing) {
  RingRig rig(8, GetParam());
  auto chain = rig.queue().Pop();
  ASSERT_TRUE(chain);
  EXPECT_FALSE(*chain);
}

TEST_P(QueueTest, ChainHasReadablePartThenWritablePart) {
  RingRig rig(8, GetParam());
  const uint16_t head = rig.Build().Readable("ab").Readable("cde").Writable(4).Submit();
  Chain chain = rig.Pop();
  EXPECT_EQ(chain.head(), head);
  EXPECT_EQ(chain.readable().size(), 2U);
  EXPECT_EQ(chain.readable_length(), 5U);
  EXPECT_EQ(chain.writable_length(), 4U);
  EXPECT_EQ(ReadAll(chain), "abcde");
  ASSERT_TRUE(chain.Write(1, Bytes("xyz")));
  rig.queue().Push(std::move(chain), 4);
  const testing::Used used = rig.driver().MustTakeUsed();
  EXPECT_EQ(used.head, head);
  EXPECT_EQ(used.written, 4U);
  EXPECT_EQ(rig.driver().Written(head, 4).substr(1), "xyz");
  EXPECT_FALSE(rig.driver().TakeUsed());
}

TEST_P(QueueTest, ChainOfAsManyBuffersAsTheQueueHasIsTaken) {
  RingRig rig(64, GetParam());
  auto build = rig.Build();
  for (int i = 0; i < 64; ++i) {
    build.Readable("x");
  }
  build.Submit();
  Chain chain = rig.Pop();
  EXPECT_EQ(chain.readable().size(), 64U);
  rig.queue().Push(std::move(chain), 0);
  EXPECT_TRUE(rig.driver().TakeUsed());
}

TEST_P(QueueTest, ZeroLengthDescriptorsCarryNothing) {
  RingRig rig(8, GetParam());
  FakeDriver& driver = rig.driver();
  driver.WriteDescriptor(0, {0xdead0000, 0, testing::kNext, 1});
  driver.WriteDescriptor(1, {mem::Raw(rig.ram().Put("x")), 1, 0, 0});
  driver.MakeAvailable(0);
  Chain chain = rig.Pop();
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_EQ(ReadAll(chain), "x");
  rig.queue().Push(std::move(chain), 0);
}

TEST_P(QueueTest, UndoPopMakesTheSameChainComeAgain) {
  RingRig rig(8, GetParam());
  rig.Build().Readable("first").Submit();
  rig.Build().Readable("sec").Readable("ond").Submit();
  rig.queue().Push(rig.Pop(), 0);
  rig.queue().UndoPop(rig.Pop());
  EXPECT_EQ(rig.queue().state().next_available, rig.At(1));
  Chain again = rig.Pop();
  EXPECT_EQ(ReadAll(again), "second");
  rig.queue().Push(std::move(again), 0);
}

TEST_P(QueueTest, UndoneChainsComeAgainInTheirOrder) {
  RingRig rig(4, GetParam());
  rig.Build().Readable("a").Submit();
  rig.Build().Readable("b").Submit();
  Chain a = rig.Pop();
  Chain b = rig.Pop();
  rig.queue().UndoPop(std::move(b));
  rig.queue().UndoPop(std::move(a));
  for (const char* expected : {"a", "b"}) {
    Chain chain = rig.Pop();
    EXPECT_EQ(ReadAll(chain), expected);
    rig.queue().Push(std::move(chain), 0);
    EXPECT_TRUE(rig.driver().TakeUsed());
  }
}

TEST_P(QueueTest, IndicesAndWrapCountersWrapAround) {
  const auto last = static_cast<uint16_t>(Packed() ? 0x8003 : 0xfffe);
  RingRig rig(4, GetParam(), {last, last});
  for (int i = 0; i < 10; ++i) {
    const uint16_t head = rig.Build().Writable(4).Submit();
    rig.queue().Push(rig.Pop(), 4);
    EXPECT_EQ(rig.driver().MustTakeUsed().head, head);
  }
  // Ten steps from slot 3 of 4 with wrap counter 1: slot 1, after three wraps.
  const auto end = static_cast<uint16_t>(Packed() ? 0x0001 : 8);
  EXPECT_EQ(rig.queue().state().next_available, end);
  EXPECT_EQ(rig.queue().state().next_used, end);
}

TEST_P(QueueTest, StateOfAStoppedQueueResumesInANewOne) {
  RingRig rig(8, GetParam());
  rig.Build().Readable("one").Submit();
  rig.Build().Readable("two").Submit();
  rig.queue().Push(rig.Pop(), 0);
  rig.Restart(rig.queue().state());
  Chain chain = rig.Pop();
  EXPECT_EQ(ReadAll(chain), "two");
  rig.queue().Push(std::move(chain), 0);
  EXPECT_TRUE(rig.driver().TakeUsed());
  EXPECT_TRUE(rig.driver().TakeUsed());
  EXPECT_FALSE(rig.driver().TakeUsed());
}

class AdoptTest : public QueueTest {};

INSTANTIATE_TEST_SUITE_P(Rings, AdoptTest, ::testing::ValuesIn(testing::RingsWith(0, kInOrder)),
                         [](const auto& info) { return RingName(info.param); });

// As when a device keeps a request over a change of the memory; used before it and behind it, another
// chain.
TEST_P(AdoptTest, ChainInFlightGoesOnInTheNextQueue) {
  RingRig rig(8, GetParam());
  const uint16_t kept = rig.Build().Readable("kept").Writable(4).Submit();
  const uint16_t done = rig.Build().Readable("done").Writable(4).Submit();
  Chain old = rig.Pop();
  rig.queue().Push(rig.Pop(), 0);
  EXPECT_EQ(rig.driver().MustTakeUsed().head, done);
  const QueueState state = rig.queue().state();
  rig.DropQueue();
  rig.Restart(state);
  auto chain = rig.queue().Adopt(std::move(old));
  ASSERT_TRUE(chain);
  const uint16_t next = rig.Build().Readable("next").Submit();
  Chain other = rig.Pop();
  EXPECT_EQ(other.head(), next);
  EXPECT_EQ(chain->head(), kept);
  EXPECT_EQ(ReadAll(*chain), "kept");
  ASSERT_TRUE(chain->Write(0, Bytes("answ")));
  rig.queue().Push(*std::move(chain), 4);
  rig.queue().Push(std::move(other), 0);
  const testing::Used used = rig.driver().MustTakeUsed();
  EXPECT_EQ(used.head, kept);
  EXPECT_EQ(rig.driver().Written(kept, used.written), "answ");
  EXPECT_EQ(rig.driver().MustTakeUsed().head, next);
  EXPECT_EQ(rig.queue().state().next_available, rig.queue().state().next_used);
}

// The head is in flight again: the driver may not offer it.
TEST_P(AdoptTest, HeadOfAnAdoptedChainIsInFlight) {
  RingRig rig(8, GetParam());
  const uint16_t head = rig.Build().Readable("kept").Submit();
  Chain old = rig.Pop();
  const QueueState state = rig.queue().state();
  rig.DropQueue();
  rig.Restart(state);
  auto chain = rig.queue().Adopt(std::move(old));
  ASSERT_TRUE(chain);
  rig.driver().MakeAvailable(head);
  const auto popped = rig.queue().Pop();
  ASSERT_FALSE(popped);
  EXPECT_EQ(popped.error(), ChainFault::kHeadInFlight);
  rig.queue().Push(*std::move(chain), 0);
}

TEST_P(QueueTest, ChainOutlivingItsQueueMayBeDropped) {
  RingRig rig(8, GetParam());
  rig.Build().Readable("one").Submit();
  Chain chain = rig.Pop();
  rig.DropQueue();
  EXPECT_EQ(ReadAll(chain), "one");
}

TEST_P(QueueTest, IovecsCoverExactlyTheRangeAskedFor) {
  RingRig rig(8, GetParam());
  rig.Build().Readable("abc").Readable("defg").Writable(3).Writable(5).Submit();
  Chain chain = rig.Pop();
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
  rig.queue().Push(std::move(chain), 0);
}

TEST_P(QueueTest, BufferAcrossTwoAdjacentRegionsIsReadWhole) {
  // CVE-2019-18960: a buffer that spans regions must not be treated as one pointer.
  GuestRam ram({{mem::Gpa{0x10000}, 0x10000}, {mem::Gpa{0x20000}, 0x10000}});
  FakeDriver driver(ram, 8, GetParam());
  auto queue = Queue::Create(ram.memory(), driver.config(), GetParam(), std::nullopt);
  ASSERT_TRUE(queue);
  const std::string text = "across the edge";
  ASSERT_TRUE(ram.memory()->WriteBytes(mem::Gpa{0x1fff8}, Bytes(text)));
  driver.Build().ReadableAt(mem::Gpa{0x1fff8}, static_cast<uint32_t>(text.size())).Submit();
  Chain chain = testing::MustPop(**queue);
  EXPECT_EQ(ReadAll(chain), text);
  (*queue)->Push(std::move(chain), 0);
}

// An honest driver and a device that takes its time, at random: every chain comes through once, with
// its content, and back with what was written.
class Traffic {
 public:
  Traffic(uint64_t features, uint16_t size, uint32_t seed)
      : rig_(size, features), size_(size), random_(seed) {}

  void Run(int rounds) {
    const uint64_t mark = rig_.ram().Mark();
    for (int round = 0; round < rounds; ++round) {
      if (sent_.empty()) {
        rig_.ram().Release(mark);
      }
      switch (Any(4)) {
        case 0:
          Send();
          break;
        case 1:
          Pop();
          break;
        case 2:
          Push();
          break;
        default:
          Receive();
          break;
      }
    }
    Finish();
  }

 private:
  struct Sent {
    std::string text;
    std::string answer;
  };

  uint32_t Any(uint32_t below) { return static_cast<uint32_t>(random_() % below); }

  void Send() {
    const uint32_t most = std::min<uint32_t>(3, rig_.driver().free_descriptors());
    if (most == 0 || sent_.size() > 200) {
      return;
    }
    const uint32_t parts = 1 + Any(most);
    auto build = rig_.Build();
    Sent sent;
    for (uint32_t i = 0; i + 1 < parts; ++i) {
      sent.text += fmt::format("{}.{} ", count_, i);
      build.Readable(fmt::format("{}.{} ", count_, i));
    }
    sent.answer = fmt::format("answer {}", count_++);
    build.Writable(static_cast<uint32_t>(sent.answer.size()));
    sent_[build.Submit()] = sent;
  }

  void Pop() {
    auto popped = rig_.queue().Pop();
    ASSERT_TRUE(popped) << ChainFaultName(popped.error());
    std::optional<Chain>& chain = *popped;
    if (!chain.has_value()) {
      return;
    }
    EXPECT_EQ(ReadAll(*chain), sent_.at(chain->head()).text);
    if (Any(8) == 0) {
      rig_.queue().UndoPop(*std::move(chain));
      return;
    }
    held_.push_back(*std::move(chain));
    EXPECT_LE(held_.size(), size_);
  }

  void Push() {
    if (held_.empty()) {
      return;
    }
    const auto which = held_.begin() + Any(static_cast<uint32_t>(held_.size()));
    Chain chain = std::move(*which);
    held_.erase(which);
    ASSERT_TRUE(chain.Write(0, Bytes(sent_.at(chain.head()).answer)));
    // In part now and then: what was not written is not in `written`.
    const uint32_t written = chain.writable_length() - (Any(3) == 0 ? 1U : 0U);
    sent_.at(chain.head()).answer.resize(written);
    rig_.queue().Push(std::move(chain), written);
  }

  void Receive() {
    const auto used = rig_.driver().TakeUsed();
    if (!used) {
      return;
    }
    const auto sent = sent_.find(used->head);
    ASSERT_NE(sent, sent_.end());
    EXPECT_EQ(used->written, sent->second.answer.size());
    EXPECT_EQ(rig_.driver().Written(used->head, used->written), sent->second.answer);
    sent_.erase(sent);
    ++received_;
  }

  void Finish() {
    for (int i = 0; received_ < count_ && i < 10000; ++i) {
      Pop();
      Push();
      Receive();
    }
    EXPECT_EQ(received_, count_);
    EXPECT_TRUE(sent_.empty());
    EXPECT_EQ(rig_.queue().state().next_available, rig_.queue().state().next_used);
  }

  RingRig rig_;
  const uint16_t size_;
  std::minstd_rand random_;
  std::map<uint16_t, Sent> sent_;  // by head
  std::deque<Chain> held_;
  uint32_t count_ = 0;
  uint32_t received_ = 0;
};

TEST_P(QueueTest, EveryChainComesThroughOnceInRandomTraffic) {
  // Packed: sizes that are no power of two, so that chains wrap in their middle.
  const auto sizes =
      Packed() ? std::vector<uint16_t>{1, 3, 5, 7, 12} : std::vector<uint16_t>{1, 4, 16};
  for (const uint16_t size : sizes) {
    SCOPED_TRACE(size);
    Traffic(GetParam(), size, 7U * size).Run(3000);
  }
}

// A driver and a device thread that sleep whenever the suppression rules allow it: no wake-up may be
// lost.
void ServeAll(Queue& queue, const EventFd& kick, int chains) {
  int served = 0;
  while (served < chains) {
    auto popped = queue.Pop();
    ASSERT_TRUE(popped);
    if (std::optional<Chain>& chain = *popped; chain.has_value()) {
      queue.Push(*std::move(chain), 0);
      if (++served % 3 == 0) {
        (void)queue.EnableNotification();
        queue.DisableNotification();
      }
    } else if (!queue.EnableNotification()) {
      while (kick.Drain() == 0) {
        std::this_thread::yield();
      }
    }
  }
}

TEST_P(QueueTest, TwoThreadsLoseNoNotification) {
  RingRig rig(static_cast<uint16_t>(Packed() ? 13 : 16), GetParam());
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  constexpr int kChains = 1000;
  const mem::Gpa buffer = rig.ram().Allocate(64);
  std::thread device([&] { ServeAll(rig.queue(), *kick, kChains); });
  FakeDriver& driver = rig.driver();
  int sent = 0;
  int received = 0;
  while (received < kChains) {
    while (sent < kChains && driver.free_descriptors() > 0) {
      driver.Build().ReadableAt(buffer, 64).Submit();
      ++sent;
    }
    if (driver.ShouldNotify()) {
      kick->Signal();
    }
    while (driver.TakeUsed()) {
      ++received;
    }
  }
  device.join();
  EXPECT_EQ(rig.queue().state().next_used, rig.queue().state().next_available);
}

TEST(QueueSizeTest, FullRingOfSize32768IsTaken) {
  for (const uint64_t features : {uint64_t{0}, kRingPacked}) {
    GuestRam big(uint64_t{8} << 20);
    FakeDriver driver(big, 32768, features);
    auto queue = Queue::Create(big.memory(), driver.config(), features, std::nullopt);
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
}

TEST(QueueSizeTest, PowersOfTwoAreAskedForInSplitRingsOnly) {
  EXPECT_TRUE(Queue::SizeValid(8, 0));
  EXPECT_FALSE(Queue::SizeValid(7, 0));
  EXPECT_TRUE(Queue::SizeValid(7, kRingPacked));
  for (const uint64_t features : {uint64_t{0}, kRingPacked}) {
    EXPECT_FALSE(Queue::SizeValid(0, features));
    EXPECT_TRUE(Queue::SizeValid(1, features));
    EXPECT_TRUE(Queue::SizeValid(32768, features));
    EXPECT_FALSE(Queue::SizeValid(32769, features));
    EXPECT_FALSE(Queue::SizeValid(65536, features));
  }
}

TEST_P(QueueTest, UsedElementsThatAreHeldAppearTogether) {
  RingRig rig(8, GetParam());
  for (int i = 0; i < 3; ++i) {
    rig.Build().Writable(4).Submit();
  }
  rig.queue().Push(rig.Pop(), 1);
  rig.queue().HoldUsed();
  rig.queue().Push(rig.Pop(), 2);
  rig.queue().Push(rig.Pop(), 3);
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 1U);
  EXPECT_FALSE(rig.driver().TakeUsed());
  rig.queue().PublishUsed();
  EXPECT_TRUE(rig.queue().NeedsInterrupt());
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 2U);
  EXPECT_EQ(rig.driver().MustTakeUsed().written, 3U);
}

TEST_P(QueueTest, HoldingNothingPublishesNothing) {
  RingRig rig(8, GetParam());
  rig.queue().HoldUsed();
  rig.queue().PublishUsed();
  EXPECT_FALSE(rig.driver().TakeUsed());
  EXPECT_FALSE(rig.queue().NeedsInterrupt());
}

}  // namespace
}  // namespace wyvern::virtio
