// Devices that leave: what was theirs comes back, and who takes a device's place goes on where it stood.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <thread>

#include <gtest/gtest.h>

#include "transport/testing/fixtures.h"
#include "transport/testing/shaped_device.h"

namespace wyvern::transport {
namespace {

using testing::PciGuest;
using testing::ShapedDevice;
using virtio::testing::FakeDevice;

size_t OpenFds() {
  const auto all = std::filesystem::directory_iterator("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

bool Readable(FdRef fd) {
  pollfd poll_fd{.fd = fd.get(), .events = POLLIN, .revents = 0};
  return poll(&poll_fd, 1, 0) == 1;
}

class DeviceLeavesTest : public testing::PciFixture {
 protected:
  void StartQueue0(PciGuest& guest) {
    ASSERT_TRUE(guest.Negotiate(virtio::kVersion1));
    guest.SetUpQueue(0, driver_.config(), 1);
    guest.DriverOk();
    ASSERT_EQ(guest.status(), 15);
  }

  // The next device; what the test sees of it.
  static std::unique_ptr<ShapedDevice> Next(ShapedDevice** seen) {
    auto device = std::make_unique<ShapedDevice>(ShapedDevice::Traits());
    *seen = device.get();
    return device;
  }
};

TEST_F(DeviceLeavesTest, TenThousandThatWereDrivenLeaveNothing) {
  PciGuest guest;
  size_t fds = 0;
  for (int round = 0; round < 10000; ++round) {
    {
      auto made = PciTransport::Create(std::make_unique<FakeDevice>(), ram_.memory(), guest.router,
                                       guest.doorbells);
      ASSERT_TRUE(made);
      guest.Plug(*made);
      ASSERT_EQ(guest.slot, 1);
      guest.EnableMsix(3);
      StartQueue0(guest);
      ASSERT_FALSE(guest.router.entries().empty());
      ASSERT_FALSE(guest.doorbells.assigned.empty());
      ASSERT_TRUE(guest.bus.Remove({guest.slot}));
      ASSERT_EQ(made->use_count(), 1);
    }
    ASSERT_TRUE(guest.router.entries().empty());
    ASSERT_TRUE(guest.doorbells.assigned.empty());
    if (round == 0) {
      fds = OpenFds();
    }
  }
  EXPECT_EQ(OpenFds(), fds);
}

TEST_F(DeviceLeavesTest, WhatWasNotAnsweredIsTheNextDevices) {
  StartQueue0(guest_);
  const uint16_t first = driver_.Build().Readable("1").Writable(8).Submit();
  const uint16_t second = driver_.Build().Readable("2").Writable(8).Submit();
  device_->running[0].queue->Push(virtio::testing::MustPop(*device_->running[0].queue), 0);
  EXPECT_EQ(driver_.MustTakeUsed().head, first);
  ShapedDevice* next = nullptr;
  transport_->core().ReplaceDevice(Next(&next));
  next->Serve();
  EXPECT_EQ(driver_.MustTakeUsed().head, second);
  EXPECT_EQ(guest_.status(), 15) << "the driver has nothing to do";
  guest_.SetStatus(0);
  StartQueue0(guest_);
  EXPECT_EQ(next->running.size(), 1U);
}

TEST_F(DeviceLeavesTest, KickIsTheNextDevicesAloneAndComesToItOnce) {
  StartQueue0(guest_);
  const UniqueFd others(::dup(device_->running[0].resources.kick.get()));
  ShapedDevice* next = nullptr;
  transport_->core().ReplaceDevice(Next(&next));
  const FdRef kick = next->running[0].resources.kick;
  EXPECT_TRUE(Readable(kick)) << "what came while nobody listened";
  uint64_t count = 0;
  EXPECT_EQ(read(kick.get(), &count, 8), 8);
  EXPECT_TRUE(guest_.Ring(0, Le16(uint16_t{0})));
  EXPECT_TRUE(Readable(kick));
  EXPECT_FALSE(Readable(others)) << "another process has this one";
}

TEST_F(DeviceLeavesTest, DriverIsToldToLookAtTheConfiguration) {
  guest_.EnableMsix(3);
  StartQueue0(guest_);
  guest_.Set(CommonField::kConfigVector, Le16(uint16_t{2}));
  (void)guest_.Read<uint8_t>(kDeviceOffset);
  const auto generation = guest_.Get<uint8_t>(CommonField::kGeneration);
  ShapedDevice* next = nullptr;
  auto device = Next(&next);
  next->config[0] = std::byte{9};
  transport_->core().ReplaceDevice(std::move(device));
  EXPECT_TRUE(Readable(FdRef(guest_.VectorEvent(2))));
  EXPECT_EQ(guest_.Read<uint8_t>(kDeviceOffset), 9);
  EXPECT_NE(guest_.Get<uint8_t>(CommonField::kGeneration), generation);
}

TEST_F(DeviceLeavesTest, QueueThatTheNextDeviceDoesNotTakeNeedsAReset) {
  class Unwilling final : public ShapedDevice {
   public:
    Unwilling() : ShapedDevice(Traits()) {}

    Result<> StartQueue(uint16_t, virtio::QueueResources, uint64_t,
                        std::optional<virtio::QueueState>) override {
      return Fail(Code::kInternal, "no");
    }
  };

  StartQueue0(guest_);
  transport_->core().ReplaceDevice(std::make_unique<Unwilling>());
  EXPECT_EQ(guest_.status() & virtio::kStatusNeedsReset, virtio::kStatusNeedsReset);
}

TEST_F(DeviceLeavesTest, PausedQueueIsTheNextDevicesWhenItGoesOn) {
  StartQueue0(guest_);
  const uint16_t head = driver_.Build().Writable(8).Submit();
  (void)transport_->core().Pause();
  ShapedDevice* next = nullptr;
  transport_->core().ReplaceDevice(Next(&next));
  EXPECT_TRUE(next->running.empty());
  ASSERT_TRUE(transport_->core().Resume());
  next->Serve();
  EXPECT_EQ(driver_.MustTakeUsed().head, head);
}

TEST_F(DeviceLeavesTest, GuestIsInTheRegistersMeanwhile) {
  std::atomic<bool> stop{false};
  std::thread vcpu([&] {
    PciGuest& guest = guest_;
    while (!stop.load()) {
      (void)guest.Negotiate(virtio::kVersion1);
      guest.SetUpQueue(0, driver_.config(), 1);
      guest.DriverOk();
      (void)guest.Read<Le32>(kDeviceOffset);
    }
  });
  for (int round = 0; round < 500; ++round) {
    ShapedDevice* next = nullptr;
    transport_->core().ReplaceDevice(Next(&next));
  }
  EXPECT_TRUE(guest_.bus.Remove({guest_.slot}));
  stop.store(true);
  vcpu.join();
}

}  // namespace
}  // namespace wyvern::transport
