// testing/core_guest.h — a driver that calls TransportCore without registers between; private to
// devices/testing.
#pragma once

#include <map>
#include <vector>

#include "testing/guest_transport.h"

namespace wyvern::devices::testing {

class CoreGuest : public GuestTransport {
 public:
  CoreGuest(std::unique_ptr<virtio::VirtioDevice> device,
            std::shared_ptr<const mem::GuestMemory> memory,
            std::shared_ptr<virtio::testing::FakeInterrupt> interrupt);

  uint64_t OfferedFeatures() override { return core_->device_features(); }

  bool Negotiate(uint64_t features) override;

  uint16_t MaxQueueSize(uint16_t index) override { return core_->max_queue_size(index); }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) override;

  void DriverOk() override { core_->WriteStatus(15); }

  uint8_t Status() override { return core_->status(); }

  void Reset() override { core_->WriteStatus(0); }

  bool ResetQueue(uint16_t index) override;
  void Kick(uint16_t index) override;
  bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) override;

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    core_->ReadConfig(offset, out);
  }

  transport::TransportCore& core() override { return *core_; }

 private:
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_;
  std::map<uint16_t, uint64_t> seen_;  // interrupts that were waited for
  std::vector<EventFd> kicks_;
  std::unique_ptr<transport::TransportCore> core_;  // last: stops its queues first
};

// Each in a file of its own.
std::unique_ptr<GuestTransport> MakePciGuest(std::unique_ptr<virtio::VirtioDevice> device,
                                             std::shared_ptr<const mem::GuestMemory> memory);
std::unique_ptr<GuestTransport> MakeMmioGuest(std::unique_ptr<virtio::VirtioDevice> device,
                                              std::shared_ptr<const mem::GuestMemory> memory);
std::unique_ptr<GuestTransport> MakeVhostUserGuest(
    std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
    std::shared_ptr<virtio::testing::FakeInterrupt> interrupt, const FrontendMaker& maker);

// True once `fd`, an eventfd, was signalled, which is then forgotten; false after `timeout`.
bool TakeEvent(FdRef fd, std::chrono::milliseconds timeout);

}  // namespace wyvern::devices::testing
