// What every device must do by itself, whatever it is and whoever drives it: each test runs over each
// device.
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "lifecycle/device_kinds.h"
#include "testing/device_rig.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using virtio::testing::GuestRam;

class DeviceLifecycleTest : public ::testing::TestWithParam<Kind> {
 protected:
  static std::unique_ptr<virtio::VirtioDevice> Make() { return GetParam().make().device; }
};

TEST_P(DeviceLifecycleTest, TraitsAreSound) {
  auto device = Make();
  const virtio::DeviceTraits& traits = device->traits();
  EXPECT_NE(traits.device_id, 0);
  EXPECT_FALSE(traits.queue_sizes.empty());
  EXPECT_STRNE(traits.name, "");
  EXPECT_EQ(traits.features & virtio::kRingFeatures, virtio::kRingFeatures);
  // Those are the transport's to offer.
  EXPECT_EQ(traits.features & (virtio::kVersion1 | virtio::kAccessPlatform | virtio::kRingReset |
                               virtio::kNotificationData),
            0U);
}

TEST_P(DeviceLifecycleTest, ConfigurationPastItsEndReadsAsZero) {
  auto device = Make();
  for (const uint32_t offset :
       {device->traits().config_length, 0xffffU, 0xffffffffU, 0xfffffffcU}) {
    std::array<std::byte, 8> out;
    out.fill(std::byte{0x55});
    device->ReadConfig(offset, out);
    EXPECT_EQ(out, (std::array<std::byte, 8>{})) << offset;
    device->WriteConfig(offset, out);
  }
}

TEST_P(DeviceLifecycleTest, StopQueueIsIdempotent) {
  DeviceRig rig(Make());
  rig.Start();
  virtio::VirtioDevice& device = rig.core().device();
  for (uint16_t i = 0; i < rig.core().queue_count(); ++i) {
    const auto state = device.StopQueue(i);
    ASSERT_TRUE(state) << i;
    EXPECT_FALSE(device.StopQueue(i)) << i;
  }
}

TEST_P(DeviceLifecycleTest, QueuesStopWithoutEverHavingStarted) {
  auto device = Make();
  const auto queues = static_cast<uint16_t>(device->traits().queue_sizes.size());
  for (uint16_t i = 0; i < queues; ++i) {
    EXPECT_FALSE(device->StopQueue(i));
  }
  device->Reset();
}

TEST_P(DeviceLifecycleTest, RingsOutsideMemoryAreAnErrorAtTheStart) {
  auto device = Make();
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  GuestRam ram;
  const auto queues = static_cast<uint16_t>(device->traits().queue_sizes.size());
  for (uint16_t i = 0; i < queues; ++i) {
    virtio::QueueResources resources{
        .memory = ram.memory(),
        .config = {.size = 16,
                   .descriptor_area = mem::Gpa{0xffffffffffff0000},
                   .driver_area = mem::Gpa{0},
                   .device_area = mem::Gpa{0}},
        .kick = kick->fd(),
        .interrupt = std::make_shared<virtio::testing::FakeInterrupt>()};
    EXPECT_FALSE(device->StartQueue(i, std::move(resources), virtio::kVersion1, std::nullopt));
    EXPECT_FALSE(device->StopQueue(i));
  }
}

TEST_P(DeviceLifecycleTest, CountersHaveNamesAndDoNotGoBack) {
  auto device = Make();
  const auto before = device->counters();
  const auto after = device->counters();
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    EXPECT_STRNE(before[i].name, "");
    EXPECT_STREQ(before[i].name, after[i].name);
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceLifecycleTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wyvern::devices
