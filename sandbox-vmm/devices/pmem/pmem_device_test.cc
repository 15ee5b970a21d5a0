#include "pmem/pmem_device.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <array>
#include <string>

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

TEST(PmemDeviceTest, SharedMemoryRegionIsNotOffered) {
  // So start and size are what the driver uses, whatever it would like.
  DeviceRig rig(Make());
  EXPECT_EQ(rig.core().device_features() & 0xffffff, 0U);
  EXPECT_TRUE(rig.core().traits().shared_memory.empty());
  rig.Start();
  EXPECT_EQ(rig.Config<Le64>(0), 0x240000000U);
}

TEST(PmemDeviceTest, ConfigurationCannotBeWritten) {
  DeviceRig rig(Make());
  rig.Start();
  const std::array<std::byte, 16> ones = [] {
    std::array<std::byte, 16> made{};
    made.fill(std::byte{0xff});
    return made;
  }();
  for (uint32_t at = 0; at < 20; ++at) {
    rig.core().WriteConfig(at, ones);
  }
  EXPECT_EQ(rig.Config<Le64>(0), 0x240000000U);
  EXPECT_EQ(rig.Config<Le64>(8), 0x4000000U);
}

TEST(PmemDeviceTest, RangesThatAreNoneAreRefused) {
  const auto create = [](uint64_t start, uint64_t size) {
    const auto device = PmemDevice::Create({.name = "pmem0", .on_thread_start = nullptr},
                                           {.start = mem::Gpa{start}, .size = size});
    return device ? Code::kOk : device.error().code();
  };
  EXPECT_EQ(create(0x100000000, 4096), Code::kOk);
  EXPECT_EQ(create(0x100000000, 0), Code::kInvalidArgument);
  EXPECT_EQ(create(0x100000000, 4097), Code::kInvalidArgument);
  EXPECT_EQ(create(0x100000001, 4096), Code::kInvalidArgument);
  EXPECT_EQ(create(~uint64_t{0} - 4095, 4096), Code::kInvalidArgument);
  EXPECT_EQ(create(~uint64_t{0} - 4095, uint64_t{1} << 63U), Code::kInvalidArgument);
  EXPECT_EQ(create(~uint64_t{0} - 8191, 4096), Code::kOk);
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
  EXPECT_EQ(Response(rig, unknown), 0xffffffffU);
  EXPECT_EQ(Response(rig, short_one), 0xffffffffU);
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

// An image where the machine maps one: a read-only slot of guest memory over its file.
class PmemImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto file = MakeMemfd("image", 4096);
    ASSERT_TRUE(file);
    ASSERT_TRUE(WriteAll(*file, kContents));
    auto again = file->Duplicate();
    ASSERT_TRUE(again);
    file_ = *std::move(again);
    mem::RegionSpec region;
    region.start = kImage;
    region.size = 4096;
    region.fd = *std::move(file);
    region.read_only = true;
    auto memory = rig_.ram().memory()->WithRegion(std::move(region));
    ASSERT_TRUE(memory);
    memory_ = *memory;
    rig_.core().SetMemory(memory_);
    rig_.Start();
  }

  std::string Contents() {
    std::string bytes(kContents.size(), '\0');
    EXPECT_EQ(pread(file_.get(), bytes.data(), bytes.size(), 0),
              static_cast<ssize_t>(bytes.size()));
    return bytes;
  }

  static constexpr std::string_view kContents = "what the guest boots from";
  static constexpr mem::Gpa kImage{virtio::testing::GuestRam::kBase + DeviceRig::kRamSize};
  DeviceRig rig_{Make()};
  std::shared_ptr<const mem::GuestMemory> memory_;
  UniqueFd file_;
};

TEST_F(PmemImageTest, Cve202624834_AnswersAreNotWrittenIntoAnImage) {
  rig_.queue(0).Build().Readable(Request(0)).WritableAt(kImage, 4).Submit();
  rig_.queue(0).Build().Readable(Request(7)).WritableAt(kImage, 64).Submit();
  rig_.Kick(0);
  EXPECT_EQ(rig_.WaitUsed(0).written, 0U);
  EXPECT_EQ(rig_.WaitUsed(0).written, 0U);
  EXPECT_EQ(Contents(), kContents);
  EXPECT_EQ(rig_.counter("flushes"), 0U);
  EXPECT_EQ(rig_.counter("bad_requests"), 2U);
}

TEST_F(PmemImageTest, Cve202624834_NoRequestWritesAnImage) {
  // What it holds before a flush is what it holds after it, and there is nothing but flushes.
  for (uint32_t type = 0; type < 64; ++type) {
    const uint16_t head =
        rig_.queue(0).Build().Readable(Request(type) + "payload").Writable(4).Submit();
    rig_.Kick(0);
    EXPECT_EQ(rig_.WaitUsed(0).written, 4U);
    EXPECT_EQ(Response(rig_, head), type == 0 ? 0U : 0xffffffffU);
  }
  EXPECT_EQ(Contents(), kContents);
}

TEST_F(PmemImageTest, Cve202624834_UsedRingInAnImageDoesNotStart) {
  auto kick = EventFd::Create();
  ASSERT_TRUE(kick);
  virtio::VirtioDevice& device = rig_.core().device();
  (void)device.StopQueue(0);
  virtio::QueueConfig config = rig_.queue(0).config();
  config.device_area = kImage;
  virtio::QueueResources resources{.memory = memory_,
                                   .config = config,
                                   .kick = kick->fd(),
                                   .interrupt = std::make_shared<virtio::testing::FakeInterrupt>()};
  EXPECT_FALSE(device.StartQueue(0, std::move(resources), virtio::kVersion1, std::nullopt));
  EXPECT_EQ(Contents(), kContents);
}

}  // namespace
}  // namespace wyvern::devices
