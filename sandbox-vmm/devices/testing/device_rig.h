// testing/device_rig.h — a device behind TransportCore with a driver per queue: what every device
// test needs.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "transport/transport_core.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices::testing {

class DeviceRig {
 public:
  static constexpr uint64_t kRamSize = uint64_t{16} << 20;

  explicit DeviceRig(std::unique_ptr<virtio::VirtioDevice> device);

  // Negotiates (`refused`: bits not taken), sets up every queue with at most `queue_size` entries
  // and sets DRIVER_OK.
  void Start(uint64_t refused = 0, uint16_t queue_size = 64);
  // Everything before DRIVER_OK.
  void Prepare(uint64_t refused = 0, uint16_t queue_size = 64);
  void DriverOk();

  virtio::testing::FakeDriver& queue(uint16_t index) { return drivers_.at(index); }

  // Notifies if the device asked for it.
  void Kick(uint16_t index);
  void KickAlways(uint16_t index);
  // The next used buffer of the queue; aborts the test after `timeout`.
  virtio::testing::Used WaitUsed(uint16_t index,
                                 std::chrono::milliseconds timeout = std::chrono::seconds(10));
  std::optional<virtio::testing::Used> WaitMaybe(uint16_t index, std::chrono::milliseconds timeout);
  // Until the device says DEVICE_NEEDS_RESET.
  bool WaitNeedsReset(std::chrono::milliseconds timeout = std::chrono::seconds(5));

  template <typename T>
  T Config(uint32_t offset) {
    T value;
    core_->ReadConfig(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  uint64_t counter(std::string_view name);

  transport::TransportCore& core() { return *core_; }

  virtio::testing::GuestRam& ram() { return ram_; }

  virtio::testing::FakeInterrupt& interrupt() { return *interrupt_; }

 private:
  virtio::testing::GuestRam ram_{kRamSize};
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  std::vector<EventFd> kicks_;
  std::deque<virtio::testing::FakeDriver> drivers_;
  std::unique_ptr<transport::TransportCore> core_;  // last: stops its queues first
};

}  // namespace wyvern::devices::testing
