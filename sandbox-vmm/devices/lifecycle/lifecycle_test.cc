// What every device must do, whatever it is: each test runs over each device.
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "base/check.h"
#include "blk/blk_device.h"
#include "pmem/pmem_device.h"
#include "rng/rng_device.h"
#include "testing/device_rig.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using virtio::testing::GuestRam;
using virtio::testing::kNext;
using virtio::testing::kWrite;

struct Kind {
  const char* name;
  std::function<std::unique_ptr<virtio::VirtioDevice>()> make;
};

class DeviceLifecycleTest : public ::testing::TestWithParam<Kind> {
 protected:
  std::unique_ptr<virtio::VirtioDevice> Make() { return GetParam().make(); }
};

TEST_P(DeviceLifecycleTest, TraitsAreSound) {
  auto device = Make();
  const virtio::DeviceTraits& traits = device->traits();
  EXPECT_NE(traits.device_id, 0);
  EXPECT_FALSE(traits.queue_sizes.empty());
  EXPECT_STRNE(traits.name, "");
  EXPECT_EQ(traits.features & virtio::kRingFeatures, virtio::kRingFeatures);
  EXPECT_EQ(traits.features & virtio::kVersion1, 0U);
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

TEST_P(DeviceLifecycleTest, StartsAndStopsWithEveryFeatureSet) {
  DeviceRig rig(Make());
  for (const uint64_t refused :
       {uint64_t{0}, virtio::kRingEventIdx, virtio::kRingIndirectDesc, virtio::kRingFeatures}) {
    const uint64_t mark = rig.ram().Mark();
    rig.Start(refused);
    rig.core().WriteStatus(0);
    EXPECT_EQ(rig.core().status(), 0);
    rig.ram().Release(mark);
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

TEST_P(DeviceLifecycleTest, PausedQueuesResumeWhereTheyWere) {
  DeviceRig rig(Make());
  rig.Start();
  const transport::TransportState before = rig.core().Pause();
  ASSERT_TRUE(rig.core().Resume());
  const transport::TransportState after = rig.core().Pause();
  for (size_t i = 0; i < before.rings.size(); ++i) {
    const std::optional<virtio::QueueState>& was = before.rings[i];
    const std::optional<virtio::QueueState>& is = after.rings[i];
    WV_CHECK(was.has_value() && is.has_value());
    EXPECT_EQ(was->next_available, is->next_available);
    EXPECT_EQ(was->next_used, is->next_used);
  }
  ASSERT_TRUE(rig.core().Resume());
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

TEST_P(DeviceLifecycleTest, HostileRingNeedsResetAndTheDeviceWorksAgainAfterIt) {
  DeviceRig rig(Make());
  for (uint16_t i = 0; i < rig.core().queue_count(); ++i) {
    const uint64_t mark = rig.ram().Mark();
    rig.Start();
    // Which queues a device pops from when is its own affair, so the fault is put into all of them.
    for (uint16_t q = 0; q < rig.core().queue_count(); ++q) {
      rig.queue(q).WriteDescriptor(0, {GuestRam::kBase, 16, kWrite | kNext, 0});
      rig.queue(q).MakeAvailable(0);
    }
    rig.KickAlways(i);
    for (uint16_t q = 0; q < rig.core().queue_count(); ++q) {
      rig.KickAlways(q);
    }
    EXPECT_TRUE(rig.WaitNeedsReset());
    rig.Start();
    EXPECT_EQ(rig.core().status(), 15);
    rig.ram().Release(mark);
  }
}

TEST_P(DeviceLifecycleTest, AvailableIndexJumpNeedsReset) {
  DeviceRig rig(Make());
  rig.Start();
  for (uint16_t q = 0; q < rig.core().queue_count(); ++q) {
    rig.queue(q).SetAvailableIndex(0x8000);
    rig.KickAlways(q);
  }
  EXPECT_TRUE(rig.WaitNeedsReset());
}

TEST_P(DeviceLifecycleTest, EmptyChainsOfEveryShapeComeBack) {
  // Readable only, writable only, one byte each: every queue must survive them, and a reset
  // afterwards must not hang.
  DeviceRig rig(Make());
  rig.Start();
  for (uint16_t q = 0; q < rig.core().queue_count(); ++q) {
    rig.queue(q).Build().Readable("x").Submit();
    rig.queue(q).Build().Writable(1).Submit();
    rig.queue(q).Build().Readable("x").Writable(1).Submit();
    rig.queue(q).Build().Indirect().Readable("x").Writable(1).Submit();
    rig.KickAlways(q);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  rig.core().WriteStatus(0);
  EXPECT_EQ(rig.core().status(), 0);
}

TEST_P(DeviceLifecycleTest, ResetUnderLoadFromTheDriverIsClean) {
  DeviceRig rig(Make());
  for (int round = 0; round < 20; ++round) {
    const uint64_t mark = rig.ram().Mark();
    rig.Start();
    for (uint16_t q = 0; q < rig.core().queue_count(); ++q) {
      while (rig.queue(q).free_descriptors() >= 2) {
        rig.queue(q).Build().Readable("0123456789abcdef").Writable(64).Submit();
      }
      rig.KickAlways(q);
    }
    rig.core().WriteStatus(0);
    rig.ram().Release(mark);
  }
}

std::unique_ptr<virtio::VirtioDevice> MakeBlk(std::unique_ptr<IoRing> ring) {
  return *BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                             .file = *MakeMemfd("disk", 1 << 20),
                             .read_only = false,
                             .serial = "",
                             .ring = std::move(ring)});
}

INSTANTIATE_TEST_SUITE_P(
    Devices, DeviceLifecycleTest,
    ::testing::Values(Kind{"rng",
                           [] {
                             return std::unique_ptr<virtio::VirtioDevice>(
                                 *RngDevice::Create({.name = "rng", .on_thread_start = nullptr}));
                           }},
                      Kind{"pmem",
                           [] {
                             return std::unique_ptr<virtio::VirtioDevice>(*PmemDevice::Create(
                                 {.name = "pmem", .on_thread_start = nullptr},
                                 {.start = mem::Gpa{0x100000000}, .size = 4096}));
                           }},
                      Kind{"vsock",
                           [] {
                             return std::unique_ptr<virtio::VirtioDevice>(*VsockDevice::Create(
                                 {.worker = {.name = "vsock", .on_thread_start = nullptr}}));
                           }},
                      Kind{"blk_pool", [] { return MakeBlk(nullptr); }},
                      Kind{"blk_uring",
                           [] {
                             auto ring = IoRing::Create();
                             return MakeBlk(ring ? *std::move(ring) : nullptr);
                           }}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wyvern::devices
