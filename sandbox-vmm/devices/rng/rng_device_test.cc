#include "rng/rng_device.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "testing/device_rig.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using virtio::testing::kNext;
using virtio::testing::kWrite;

using std::chrono::milliseconds;

std::unique_ptr<RngDevice> Make(const RateLimiterConfig& limits = {}) {
  auto device = RngDevice::Create({.name = "rng", .on_thread_start = nullptr}, limits);
  EXPECT_TRUE(device);
  return *std::move(device);
}

RateLimiterConfig Requests(uint64_t size, milliseconds refill) {
  return {.bandwidth = {}, .ops = {.size = size, .one_time_burst = 0, .refill_time = refill}};
}

TEST(RngDeviceTest, FillsTheWholeBuffer) {
  DeviceRig rig(Make());
  rig.Start();
  const uint16_t head = rig.queue(0).Build().Writable(5000).Writable(3000).Submit();
  rig.Kick(0);
  const auto used = rig.WaitUsed(0);
  EXPECT_EQ(used.head, head);
  EXPECT_EQ(used.written, 8000U);
  const std::string bytes = rig.queue(0).Written(head, 8000);
  EXPECT_EQ(std::set<char>(bytes.begin(), bytes.end()).size(), 256U);
}

TEST(RngDeviceTest, ChainOfferedBeforeTheStartIsServed) {
  DeviceRig rig(Make());
  rig.Prepare();
  rig.queue(0).Build().Writable(16).Submit();
  rig.DriverOk();
  EXPECT_EQ(rig.WaitUsed(0).written, 16U);
}

TEST(RngDeviceTest, ReadableOnlyChainComesBackEmpty) {
  DeviceRig rig(Make());
  rig.Start();
  rig.queue(0).Build().Readable("give me").Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 0U);
}

TEST(RngDeviceTest, ReadableBuffersAreLeftAlone) {
  DeviceRig rig(Make());
  rig.Start();
  const mem::Gpa text = rig.ram().Put("give me");
  const uint16_t head = rig.queue(0).Build().ReadableAt(text, 7).Writable(64).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 64U);
  EXPECT_EQ(rig.ram().Text(text, 7), "give me");
  EXPECT_NE(rig.queue(0).Written(head, 64), std::string(64, '\0'));
}

TEST(RngDeviceTest, LongBufferIsFilledInPart) {
  // VIRTIO §5.4.6.2: one byte or more, and not beyond what is said.
  DeviceRig rig(Make());
  rig.Start();
  const uint16_t head = rig.queue(0).Build().Writable(RngDevice::kMaxBytes + 16).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, RngDevice::kMaxBytes);
  const std::string bytes = rig.queue(0).Written(head, RngDevice::kMaxBytes + 16);
  EXPECT_EQ(bytes.substr(RngDevice::kMaxBytes), std::string(16, '\0'));
}

TEST(RngDeviceTest, MemoryThatCannotBeWrittenComesBackEmpty) {
  DeviceRig rig(Make());
  const mem::Gpa image{virtio::testing::GuestRam::kBase + DeviceRig::kRamSize};
  mem::RegionSpec region;
  region.start = image;
  region.size = 4096;
  region.read_only = true;
  auto memory = rig.ram().memory()->WithRegion(std::move(region));
  ASSERT_TRUE(memory);
  rig.core().SetMemory(*memory);
  rig.Start();
  rig.queue(0).Build().WritableAt(image, 64).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 0U);
}

TEST(RngLimitTest, RequestsPerTimeAreKept) {
  DeviceRig rig(Make(Requests(5, milliseconds(50))));
  rig.Start();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 15; ++i) {
    rig.queue(0).Build().Writable(8).Submit();
  }
  rig.Kick(0);
  for (int i = 0; i < 15; ++i) {
    EXPECT_EQ(rig.WaitUsed(0).written, 8U);
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(80));
  EXPECT_GT(rig.counter("throttled"), 0U);
}

TEST(RngLimitTest, BytesPerTimeAreKept) {
  DeviceRig rig(
      Make({.bandwidth = {.size = 1000, .one_time_burst = 0, .refill_time = milliseconds(20)},
            .ops = {}}));
  rig.Start();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) {
    rig.queue(0).Build().Writable(2000).Submit();
  }
  rig.Kick(0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(rig.WaitUsed(0).written, 2000U);
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(80));
}

TEST(RngLimitTest, WaitingChainsSurviveAStopAndGoWhenTheLimitIsLifted) {
  auto device = Make(Requests(1, std::chrono::hours(1)));
  RngDevice* const rng = device.get();
  DeviceRig rig(std::move(device));
  rig.Start();
  for (int i = 0; i < 5; ++i) {
    rig.queue(0).Build().Writable(8).Submit();
  }
  rig.Kick(0);
  int answered = 0;
  while (rig.WaitMaybe(0, milliseconds(20))) {
    ++answered;
  }
  EXPECT_LT(answered, 5);
  (void)rig.core().Pause();
  const RngState state = rng->SaveState();
  EXPECT_EQ(state.version, RngState::kVersion);
  EXPECT_FALSE(rng->RestoreState({.version = RngState::kVersion + 1, .limits = state.limits}));
  ASSERT_TRUE(rng->RestoreState(state));
  ASSERT_TRUE(rig.core().Resume());
  EXPECT_FALSE(rig.WaitMaybe(0, milliseconds(20)));
  rng->SetRateLimits({});
  for (; answered < 5; ++answered) {
    rig.WaitUsed(0);
  }
}

TEST(RngLimitTest, ResetWhileAChainWaitsIsClean) {
  DeviceRig rig(Make(Requests(1, milliseconds(5))));
  for (int round = 0; round < 20; ++round) {
    const uint64_t mark = rig.ram().Mark();
    rig.Start();
    rig.queue(0).Build().Writable(8).Submit();
    rig.queue(0).Build().Writable(8).Submit();
    rig.KickAlways(0);
    rig.WaitUsed(0);
    rig.core().WriteStatus(0);
    rig.ram().Release(mark);
  }
}

TEST(RngDeviceTest, Firecracker4392a8d19_OverlappingDescriptorsAreBounded) {
  // 63 descriptors of 15 MiB that all name the same memory: 64 KiB come back, nothing of that size
  // is allocated.
  DeviceRig rig(Make());
  rig.Start();
  for (uint16_t i = 0; i < 63; ++i) {
    rig.queue(0).WriteDescriptor(i, {virtio::testing::GuestRam::kBase + (1 << 20), 15 << 20,
                                     i == 62 ? kWrite : static_cast<uint16_t>(kWrite | kNext),
                                     static_cast<uint16_t>(i + 1)});
  }
  rig.queue(0).MakeAvailable(0);
  rig.KickAlways(0);
  EXPECT_EQ(rig.WaitUsed(0).written, RngDevice::kMaxBytes);
  EXPECT_EQ(rig.counter("bytes"), RngDevice::kMaxBytes);
}

TEST(RngDeviceTest, LoopedChainNeedsReset) {
  DeviceRig rig(Make());
  rig.Start();
  rig.queue(0).WriteDescriptor(0, {virtio::testing::GuestRam::kBase, 16, kWrite | kNext, 0});
  rig.queue(0).MakeAvailable(0);
  rig.KickAlways(0);
  EXPECT_TRUE(rig.WaitNeedsReset());
  EXPECT_EQ(rig.counter("faults"), 1U);
  rig.Start();
  rig.queue(0).Build().Writable(8).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 8U);
}

TEST(RngDeviceTest, ThreadStartsWithItsHook) {
  std::string kind;
  auto device =
      RngDevice::Create({.name = "rng", .on_thread_start = [&](const char* k) { kind = k; }});
  ASSERT_TRUE(device);
  device->reset();
  EXPECT_EQ(kind, "worker");
}

}  // namespace
}  // namespace wyvern::devices
