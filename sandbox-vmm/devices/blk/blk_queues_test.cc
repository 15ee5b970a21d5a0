// Several queues: who serves them, how they stop, and how a rate limit holds them back.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <tuple>

#include "blk/pool_engine.h"
#include "blk/testing/blk_rig.h"
#include "blk/testing/held_engine.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::BlkRig;
using testing::EngineKind;
using testing::HeldIo;

using Clock = std::chrono::steady_clock;

class BlkQueuesTest : public ::testing::TestWithParam<std::tuple<EngineKind, uint16_t>> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()) == EngineKind::kUring && !IoRing::Create()) {
      GTEST_SKIP() << "io_uring is not to be had on this host";
    }
  }
};

TEST_P(BlkQueuesTest, EveryQueueIsServedByEveryNumberOfLanes) {
  const auto [engine, lanes] = GetParam();
  BlkRig rig(engine, {.queues = 4, .lanes = lanes});
  rig.device().Start();
  for (uint16_t queue = 0; queue < 4; ++queue) {
    const std::string data(4096, static_cast<char>('a' + queue));
    EXPECT_EQ(rig.Request(BlkType::kOut, queue * uint64_t{8}, data, 0, nullptr, queue),
              BlkStatus::kOk);
  }
  for (uint16_t queue = 0; queue < 4; ++queue) {
    // Written by another queue.
    std::string data;
    EXPECT_EQ(rig.Request(BlkType::kIn, (3U - queue) * uint64_t{8}, "", 4096, &data, queue),
              BlkStatus::kOk);
    EXPECT_EQ(data, std::string(4096, static_cast<char>('a' + 3 - queue)));
  }
  EXPECT_EQ(rig.device().counter("reads"), 4U);
  EXPECT_EQ(rig.device().counter("bytes_written"), 16384U);
}

TEST_P(BlkQueuesTest, DriverWithoutMultiQueueUsesTheFirst) {
  const auto [engine, lanes] = GetParam();
  BlkRig rig(engine, {.queues = 4, .lanes = lanes});
  rig.device().Start(kBlkMultiQueue);
  EXPECT_EQ(rig.Write(0, std::string(512, 'q')), BlkStatus::kOk);
  EXPECT_EQ(rig.OnDisk(0, 512), std::string(512, 'q'));
}

TEST_P(BlkQueuesTest, LoadOnAllQueuesComesBackRight) {
  const auto [engine, lanes] = GetParam();
  BlkRig rig(engine, {.queues = 4, .lanes = lanes});
  rig.device().Start(0, 256);
  constexpr uint16_t kEach = 60;
  for (uint16_t queue = 0; queue < 4; ++queue) {
    for (uint16_t i = 0; i < kEach; ++i) {
      const uint64_t sector = (uint64_t{queue} * kEach + i) * 8;
      rig.Submit(BlkType::kOut, sector, std::string(4096, static_cast<char>('a' + i % 26)), 0,
                 queue);
    }
    rig.device().Kick(queue);
  }
  for (uint16_t queue = 0; queue < 4; ++queue) {
    for (uint16_t i = 0; i < kEach; ++i) {
      rig.device().WaitUsed(queue);
    }
    // The last answers are in the ring before the interrupt for them is.
    EXPECT_TRUE(rig.device().interrupt().WaitQueue(queue, 0));
  }
  for (uint64_t i = 0; i < uint64_t{4} * kEach; ++i) {
    EXPECT_EQ(rig.OnDisk(i * 4096, 4096),
              std::string(4096, static_cast<char>('a' + i % kEach % 26)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Lanes, BlkQueuesTest,
    ::testing::Combine(::testing::Values(EngineKind::kUring, EngineKind::kPool),
                       ::testing::Values(uint16_t{1}, uint16_t{2}, uint16_t{4})),
    [](const auto& info) {
      return std::string(std::get<0>(info.param) == EngineKind::kUring ? "uring" : "pool") +
             std::to_string(std::get<1>(info.param));
    });

TEST(BlkLanesTest, IdleQueuesCostNoThreads) {
  std::atomic<int> workers = 0;
  std::atomic<int> others = 0;
  auto device =
      BlkDevice::Create({.worker = {.name = "blk",
                                    .on_thread_start =
                                        [&](const char* kind) {
                                          ++(std::string(kind) == "worker" ? workers : others);
                                        }},
                         .file = *MakeMemfd("disk", 4096),
                         .read_only = false,
                         .serial = "",
                         .ring = nullptr,
                         .queues = 16});
  ASSERT_TRUE(device);
  device->reset();
  EXPECT_EQ(workers, 1);
  EXPECT_EQ(others, PoolEngine::kThreads);
}

TEST(BlkStopTest, OneQueueStopsWhileAnotherWorks) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.queues = 2, .engine = io.Factory()});
  rig.device().Start();
  const uint16_t slow = rig.Submit(BlkType::kIn, 0, "", 512, 0);
  rig.device().KickAlways(0);
  const HeldIo::Piece held = io.Take();
  std::atomic<bool> stopped = false;
  std::optional<virtio::QueueState> state;
  std::thread stopper([&] {
    state = rig.blk().StopQueue(0);
    stopped = true;
  });
  // The other queue has the same worker.
  for (int i = 0; i < 20; ++i) {
    const uint16_t head = rig.Submit(BlkType::kOut, 8, std::string(512, 'o'), 0, 1);
    rig.device().KickAlways(1);
    const HeldIo::Piece piece = io.Take();
    piece.finish(512);
    rig.device().WaitUsed(1);
    EXPECT_EQ(rig.Status(head, 0, 1), BlkStatus::kOk);
  }
  EXPECT_FALSE(stopped);
  held.finish(held.Perform(rig.disk()));
  stopper.join();
  WV_CHECK(state.has_value());
  EXPECT_EQ(state->next_available, 1);
  EXPECT_EQ(state->next_used, 1);
  rig.device().WaitUsed(0);
  EXPECT_EQ(rig.Status(slow, 512), BlkStatus::kOk);
}

TEST(BlkStopTest, StoppingQueueTakesNothingNew) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  rig.Submit(BlkType::kIn, 0, "", 512);
  rig.device().KickAlways(0);
  const HeldIo::Piece held = io.Take();
  std::thread stopper([&] { (void)rig.device().core().Pause(); });
  std::this_thread::sleep_for(milliseconds(20));
  rig.Submit(BlkType::kIn, 8, "", 512);
  rig.device().KickAlways(0);
  EXPECT_FALSE(io.TakeWithin(milliseconds(20)));
  held.finish(512);
  stopper.join();
  EXPECT_EQ(io.waiting(), 0U);
  ASSERT_TRUE(rig.device().core().Resume());
  const HeldIo::Piece next = io.Take();
  EXPECT_EQ(next.offset, 4096U);
  next.finish(512);
  rig.device().WaitUsed(0);
  rig.device().WaitUsed(0);
}

TEST(BlkShareTest, QueueHasItsShareAndNoMore) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.queues = 2, .engine = io.Factory()});
  rig.device().Start(0, 256);
  constexpr size_t kShare = BlkLane::kSlots / 2;
  constexpr size_t kSent = kShare + 50;
  for (size_t i = 0; i < kSent; ++i) {
    rig.device()
        .queue(0)
        .Build()
        .Indirect()
        .Readable(BlkRig::Header(BlkType::kIn, i))
        .Writable(512)
        .Writable(1)
        .Submit();
  }
  rig.device().KickAlways(0);
  std::vector<HeldIo::Piece> pieces;
  pieces.reserve(kShare);
  for (size_t i = 0; i < kShare; ++i) {
    pieces.push_back(io.Take());
  }
  EXPECT_FALSE(io.TakeWithin(milliseconds(20)));
  // The other queue's share is its own.
  rig.Submit(BlkType::kIn, 0, "", 512, 1);
  rig.device().KickAlways(1);
  io.Take().finish(512);
  rig.device().WaitUsed(1);
  // As requests end, those that wait follow without another notification.
  for (const HeldIo::Piece& piece : pieces) {
    piece.finish(512);
  }
  for (size_t i = kShare; i < kSent; ++i) {
    io.Take().finish(512);
  }
  for (size_t i = 0; i < kSent; ++i) {
    rig.device().WaitUsed(0);
  }
  EXPECT_EQ(rig.device().counter("reads"), kSent + 1);
}

TEST(BlkSlowTest, Firecracker5260_SlowDriveStarvesNoOther) {
  HeldIo io;
  BlkRig slow(EngineKind::kPool, {.engine = io.Factory()});
  BlkRig fast(EngineKind::kPool);
  slow.device().Start();
  fast.device().Start();
  for (uint64_t i = 0; i < 20; ++i) {
    slow.Submit(BlkType::kIn, i, "", 512);
  }
  slow.device().KickAlways(0);
  std::vector<HeldIo::Piece> held;
  held.reserve(20);
  for (int i = 0; i < 20; ++i) {
    held.push_back(io.Take());
  }
  for (uint64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(fast.Write(i, std::string(512, 'f')), BlkStatus::kOk);
  }
  EXPECT_FALSE(slow.device().queue(0).TakeUsed());
  for (const HeldIo::Piece& piece : held) {
    piece.finish(512);
  }
  for (int i = 0; i < 20; ++i) {
    slow.device().WaitUsed(0);
  }
}

constexpr RateLimiterConfig Ops(uint64_t size, milliseconds refill) {
  return {.bandwidth = {}, .ops = {.size = size, .one_time_burst = 0, .refill_time = refill}};
}

constexpr RateLimiterConfig Bandwidth(uint64_t size, milliseconds refill) {
  return {.bandwidth = {.size = size, .one_time_burst = 0, .refill_time = refill}, .ops = {}};
}

// Sends `count` reads of 4 KiB to each of `queues` and waits for all; how long that took.
milliseconds TimeOfReads(BlkRig& rig, uint16_t queues, int count) {
  const auto start = Clock::now();
  for (uint16_t queue = 0; queue < queues; ++queue) {
    for (int i = 0; i < count; ++i) {
      rig.Submit(BlkType::kIn, 0, "", 4096, queue);
    }
    rig.device().Kick(queue);
  }
  for (uint16_t queue = 0; queue < queues; ++queue) {
    for (int i = 0; i < count; ++i) {
      rig.device().WaitUsed(queue);
    }
  }
  return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

TEST(BlkLimitTest, RequestsPerTimeAreKept) {
  BlkRig rig(EngineKind::kPool, {.limits = Ops(5, milliseconds(50))});
  rig.device().Start();
  // 5 at once, 10 more in two refills.
  EXPECT_GE(TimeOfReads(rig, 1, 15), milliseconds(80));
  EXPECT_GT(rig.device().counter("throttled"), 0U);
}

TEST(BlkLimitTest, BytesPerTimeAreKept) {
  BlkRig rig(EngineKind::kPool, {.limits = Bandwidth(16384, milliseconds(40))});
  rig.device().Start();
  EXPECT_GE(TimeOfReads(rig, 1, 12), milliseconds(60));
}

TEST(BlkLimitTest, ZeroesCountAsBytes) {
  BlkRig rig(EngineKind::kPool, {.limits = Bandwidth(BlkRig::kDiskSize, milliseconds(50))});
  rig.device().Start();
  const auto start = Clock::now();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 2048, kRangeUnmap), 0),
              BlkStatus::kOk);
  }
  EXPECT_GE(Clock::now() - start, milliseconds(40));
}

TEST(BlkLimitTest, QueuesAndLanesTakeTurns) {
  for (const uint16_t lanes : {uint16_t{1}, uint16_t{2}}) {
    BlkRig rig(EngineKind::kPool,
               {.queues = 2, .lanes = lanes, .limits = Ops(4, milliseconds(20))});
    rig.device().Start();
    // Two greedy queues; half of the time, each has had about half of the tokens.
    for (uint16_t queue = 0; queue < 2; ++queue) {
      for (int i = 0; i < 20; ++i) {
        rig.Submit(BlkType::kIn, 0, "", 512, queue);
      }
      rig.device().Kick(queue);
    }
    int first = 0;
    int second = 0;
    while (first + second < 24) {
      first += rig.device().WaitMaybe(0, milliseconds(1)) ? 1 : 0;
      second += rig.device().WaitMaybe(1, milliseconds(1)) ? 1 : 0;
    }
    EXPECT_GE(first, 4) << lanes;
    EXPECT_GE(second, 4) << lanes;
  }
}

// Answers that come without the limit being lifted; a bucket that is not quite empty lets one more
// request go.
int AnsweredWithin(BlkRig& rig, milliseconds timeout) {
  int answered = 0;
  while (rig.device().WaitMaybe(0, timeout)) {
    ++answered;
  }
  return answered;
}

TEST(BlkLimitTest, LiftedLimitLetsWaitingRequestsGo) {
  BlkRig rig(EngineKind::kPool, {.limits = Ops(1, std::chrono::hours(1))});
  rig.device().Start();
  for (int i = 0; i < 10; ++i) {
    rig.Submit(BlkType::kIn, 0, "", 512);
  }
  rig.device().Kick(0);
  const int early = AnsweredWithin(rig, milliseconds(30));
  EXPECT_GE(early, 1);
  EXPECT_LE(early, 2);
  rig.blk().SetRateLimits({});
  for (int i = early; i < 10; ++i) {
    rig.device().WaitUsed(0);
  }
}

TEST(BlkLimitTest, ChainsThatWaitStayInTheRing) {
  BlkRig rig(EngineKind::kPool, {.limits = Ops(1, std::chrono::hours(1))});
  rig.device().Start();
  for (int i = 0; i < 5; ++i) {
    rig.Submit(BlkType::kIn, 0, "", 512);
  }
  rig.device().Kick(0);
  const int early = AnsweredWithin(rig, milliseconds(30));
  const auto state = rig.device().core().Pause();
  const auto& ring = state.rings[0];
  WV_CHECK(ring.has_value());
  EXPECT_EQ(ring->next_available, early);
  EXPECT_EQ(ring->next_used, early);
  rig.blk().SetRateLimits({});
  ASSERT_TRUE(rig.device().core().Resume());
  for (int i = early; i < 5; ++i) {
    rig.device().WaitUsed(0);
  }
}

TEST(BlkLimitTest, RequestIsJudgedWhenItIsTaken) {
  BlkRig rig(EngineKind::kPool, {.limits = Ops(1, std::chrono::hours(1))});
  rig.device().Start();
  mem::Gpa header{};
  uint16_t head = 0;
  do {
    header = rig.device().ram().Put(BlkRig::Header(BlkType::kIn, 0));
    head = rig.device().queue(0).Build().ReadableAt(header, 16).Writable(512).Writable(1).Submit();
    rig.device().Kick(0);
  } while (rig.device().WaitMaybe(0, milliseconds(30)));
  // It waits as a read of the first sector, and is taken as one behind the end.
  rig.device().ram().Write(mem::Gpa{mem::Raw(header) + 8}, Le64(BlkRig::kDiskSize / 512));
  rig.blk().SetRateLimits({});
  rig.device().WaitUsed(0);
  EXPECT_EQ(rig.Status(head, 512), BlkStatus::kIoError);
}

}  // namespace
}  // namespace wyvern::devices
