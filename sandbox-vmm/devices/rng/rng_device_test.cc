#include "rng/rng_device.h"

#include <gtest/gtest.h>

#include <set>

#include "testing/device_rig.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using virtio::testing::kNext;
using virtio::testing::kWrite;

std::unique_ptr<virtio::VirtioDevice> Make() {
  auto device = RngDevice::Create({.name = "rng", .on_thread_start = nullptr});
  EXPECT_TRUE(device);
  return *std::move(device);
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
