#include "pmem/pmem_device.h"

#include <gtest/gtest.h>

#include "base/endian.h"
#include "testing/device_rig.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;

constexpr PmemRange kRange = {.start = mem::Gpa{0x240000000}, .size = 0x4000000};

std::unique_ptr<virtio::VirtioDevice> Make() {
  auto device = PmemDevice::Create({.name = "pmem0", .on_thread_start = nullptr}, kRange);
  EXPECT_TRUE(device);
  return *std::move(device);
}

std::string Request(uint32_t type) {
  const Le32 wire(type);
  return std::string(reinterpret_cast<const char*>(&wire), 4);
}

uint32_t Response(DeviceRig& rig, uint16_t head) {
  const std::string bytes = rig.queue(0).Written(head, 4);
  Le32 wire;
  std::memcpy(&wire, bytes.data(), 4);
  return wire;
}

TEST(PmemDeviceTest, ConfigurationTellsTheRange) {
  DeviceRig rig(Make());
  EXPECT_EQ(rig.Config<Le64>(0), 0x240000000U);
  EXPECT_EQ(rig.Config<Le64>(8), 0x4000000U);
  EXPECT_EQ(rig.Config<Le32>(4), 2U);
  EXPECT_EQ(rig.Config<Le64>(12), 0U);
  EXPECT_EQ(rig.Config<Le64>(0xfffffff8), 0U);
}

TEST(PmemDeviceTest, FlushIsAnsweredOk) {
  DeviceRig rig(Make());
  rig.Start();
  const uint16_t head = rig.queue(0).Build().Readable(Request(0)).Writable(4).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 4U);
  EXPECT_EQ(Response(rig, head), 0U);
  EXPECT_EQ(rig.counter("flushes"), 1U);
}

TEST(PmemDeviceTest, UnknownAndTruncatedRequestsAreAnsweredWithAnError) {
  DeviceRig rig(Make());
  rig.Start();
  const uint16_t unknown = rig.queue(0).Build().Readable(Request(7)).Writable(4).Submit();
  const uint16_t short_one = rig.queue(0).Build().Readable("abc").Writable(4).Submit();
  rig.Kick(0);
  rig.WaitUsed(0);
  rig.WaitUsed(0);
  EXPECT_EQ(Response(rig, unknown), 1U);
  EXPECT_EQ(Response(rig, short_one), 1U);
  EXPECT_EQ(rig.counter("bad_requests"), 2U);
}

TEST(PmemDeviceTest, Cve202648914_RoomTooSmallForTheAnswerIsLeftAlone) {
  DeviceRig rig(Make());
  rig.Start();
  const uint16_t head = rig.queue(0).Build().Readable(Request(0)).Writable(3).Submit();
  rig.queue(0).Build().Readable(Request(0)).Submit();
  rig.Kick(0);
  EXPECT_EQ(rig.WaitUsed(0).written, 0U);
  EXPECT_EQ(rig.WaitUsed(0).written, 0U);
  EXPECT_EQ(rig.queue(0).Written(head, 3), std::string(3, '\0'));
  EXPECT_EQ(rig.counter("bad_requests"), 2U);
}

}  // namespace
}  // namespace wyvern::devices
