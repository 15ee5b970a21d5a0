// How large a ring may be, and what that changes: neither the requests in flight nor their pieces.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "blk/testing/blk_rig.h"
#include "blk/testing/held_engine.h"

namespace wyvern::devices {
namespace {

using std::chrono::milliseconds;
using testing::BlkRig;
using testing::EngineKind;
using testing::HeldIo;

constexpr uint16_t kLargest = BlkDevice::kMaxQueueSize;

Code CreateWithRing(uint16_t queue_size) {
  auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                   .file = *MakeMemfd("disk", 4096),
                                   .read_only = false,
                                   .serial = "",
                                   .ring = nullptr,
                                   .queue_size = queue_size});
  return device ? Code::kOk : device.error().code();
}

TEST(BlkRingSizeTest, SizesOutOfRangeAreRefused) {
  EXPECT_EQ(CreateWithRing(4), Code::kOk);
  EXPECT_EQ(CreateWithRing(kLargest), Code::kOk);
  for (const uint16_t size : std::to_array<uint16_t>({0, 2, 3, 255, 1000, 2048, 32768})) {
    EXPECT_EQ(CreateWithRing(size), Code::kInvalidArgument) << size;
  }
}

TEST(BlkRingSizeTest, SegmentsFitTheRingAndAreNoMoreInALargerOne) {
  // Linux makes chains of seg_max + 2.
  constexpr std::array<std::pair<uint16_t, uint32_t>, 4> kSegments = {{
      {uint16_t{4}, 2U},
      {uint16_t{128}, 126U},
      {uint16_t{256}, BlkDevice::kMaxSegments},
      {kLargest, BlkDevice::kMaxSegments},
  }};
  for (const auto& [size, segments] : kSegments) {
    BlkRig rig(EngineKind::kPool, {.queue_size = size});
    EXPECT_EQ(rig.device().core().max_queue_size(0), size);
    EXPECT_EQ(rig.device().Config<Le32>(12), segments) << size;
  }
}

TEST(BlkRingSizeTest, LargestRingIsServedAsOthersEnd) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.queue_size = kLargest, .engine = io.Factory()});
  rig.device().Start(0, kLargest);
  for (uint64_t sector = 0; sector < kLargest; ++sector) {
    rig.device()
        .queue(0)
        .Build()
        .Indirect()
        .Readable(BlkRig::Header(BlkType::kIn, sector))
        .Writable(512)
        .Writable(1)
        .Submit();
  }
  ASSERT_EQ(rig.device().queue(0).free_descriptors(), 0);
  rig.device().KickAlways(0);
  std::vector<HeldIo::Piece> held;
  held.reserve(BlkLane::kSlots);
  for (uint32_t i = 0; i < BlkLane::kSlots; ++i) {
    held.push_back(io.Take());
  }
  EXPECT_FALSE(io.TakeWithin(milliseconds(20)));
  // One ends, one begins: the driver need not notify again.
  for (uint32_t i = 0; i < kLargest - BlkLane::kSlots; ++i) {
    HeldIo::Piece& piece = held[i % BlkLane::kSlots];
    EXPECT_EQ(piece.offset, i * uint64_t{512});
    piece.finish(512);
    piece = io.Take();
  }
  EXPECT_EQ(io.waiting(), 0U);
  for (const HeldIo::Piece& piece : held) {
    piece.finish(512);
  }
  for (int i = 0; i < kLargest; ++i) {
    rig.device().WaitUsed(0);
  }
  EXPECT_EQ(rig.device().counter("reads"), kLargest);
}

TEST(BlkRingSizeTest, StopLeavesWhatWaitsInALargeRingToTheNextStart) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.queue_size = kLargest, .engine = io.Factory()});
  rig.device().Start(0, kLargest);
  constexpr uint32_t kSent = BlkLane::kSlots + 40;  // of three descriptors each
  for (uint32_t i = 0; i < kSent; ++i) {
    rig.Submit(BlkType::kIn, i, "", 512);
  }
  rig.device().KickAlways(0);
  std::vector<HeldIo::Piece> held;
  held.reserve(BlkLane::kSlots);
  for (uint32_t i = 0; i < BlkLane::kSlots; ++i) {
    held.push_back(io.Take());
  }
  std::atomic<bool> stopped = false;
  std::optional<virtio::QueueState> state;
  std::thread stopper([&] {
    state = rig.device().core().StopQueue(0);
    stopped = true;
  });
  std::this_thread::sleep_for(milliseconds(20));
  for (const HeldIo::Piece& piece : held) {
    piece.finish(512);
  }
  while (!stopped) {
    // What has begun before the stop had.
    if (const auto piece = io.TakeWithin(milliseconds(1))) {
      piece->finish(512);
    }
  }
  stopper.join();
  const virtio::QueueState at = state.value_or(virtio::QueueState{});
  EXPECT_EQ(at.next_available, at.next_used);
  EXPECT_GE(at.next_used, BlkLane::kSlots);
  ASSERT_TRUE(rig.device().core().StartQueue(0, state));
  for (uint32_t i = at.next_used; i < kSent; ++i) {
    const HeldIo::Piece piece = io.Take();
    EXPECT_EQ(piece.offset, i * uint64_t{512});
    piece.finish(512);
  }
  for (uint32_t i = 0; i < kSent; ++i) {
    rig.device().WaitUsed(0);
  }
}

// Of each engine, and of a list that a call of the kernel takes as a whole or not.
class BlkLongChainTest : public ::testing::TestWithParam<std::tuple<EngineKind, bool>> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()) == EngineKind::kUring && !IoRing::Create()) {
      GTEST_SKIP() << "io_uring is not to be had on this host";
    }
  }
};

TEST_P(BlkLongChainTest, ChainAsLongAsTheRingIsOneRequest) {
  // More than seg_max, which the driver should not send and we need not refuse.
  const auto [engine, indirect] = GetParam();
  BlkRig rig(engine, {.queue_size = kLargest});
  rig.device().Start(0, kLargest);
  constexpr size_t kPieces = kLargest - 2;
  static_assert(kPieces <= IOV_MAX);
  std::string data;
  for (size_t i = 0; i < kPieces; ++i) {
    data += std::string(512, static_cast<char>('A' + i % 26));
  }
  rig.PutOnDisk(0, data);
  auto& driver = rig.device().queue(0);
  auto build = driver.Build();
  if (indirect) {
    build.Indirect();
  }
  build.Readable(BlkRig::Header(BlkType::kIn, 0));
  for (size_t i = 0; i < kPieces; ++i) {
    build.Writable(512);
  }
  const uint16_t head = build.Writable(1).Submit();
  rig.device().Kick(0);
  EXPECT_EQ(rig.device().WaitUsed(0).written, data.size() + 1);
  EXPECT_EQ(driver.Written(head, static_cast<uint32_t>(data.size()) + 1), data + '\0');
  // What the long list took is given back: the next request has its own.
  EXPECT_EQ(rig.Read(1, 512), std::string(512, 'B'));
}

INSTANTIATE_TEST_SUITE_P(
    Engines, BlkLongChainTest,
    ::testing::Combine(::testing::Values(EngineKind::kUring, EngineKind::kPool), ::testing::Bool()),
    [](const auto& info) {
      return std::string(std::get<0>(info.param) == EngineKind::kUring ? "uring" : "pool") +
             (std::get<1>(info.param) ? "_indirect" : "_direct");
    });

}  // namespace
}  // namespace wyvern::devices
