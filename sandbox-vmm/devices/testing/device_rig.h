// testing/device_rig.h — a device behind one of the product's transports with a driver per queue:
// what every device test needs.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "testing/guest_transport.h"
#include "transport/transport_core.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices::testing {

enum class RingKind : uint8_t { kSplit, kPacked };

struct RigOptions {
  TransportKind transport = TransportKind::kCore;
  RingKind ring = RingKind::kSplit;
  FrontendMaker frontend = nullptr;  // with TransportKind::kVhostUser
};

class DeviceRig {
 public:
  static constexpr uint64_t kRamSize = uint64_t{16} << 20;

  explicit DeviceRig(std::unique_ptr<virtio::VirtioDevice> device, RigOptions options = {});

  // Of the next Start.
  void UseRing(RingKind ring) { options_.ring = ring; }

  // Negotiates (`refused`: bits not taken), sets up every queue with at most `queue_size` entries
  // and sets DRIVER_OK.
  void Start(uint64_t refused = 0, uint16_t queue_size = 64);
  // Everything before DRIVER_OK.
  void Prepare(uint64_t refused = 0, uint16_t queue_size = 64);
  void DriverOk();

  // Status 0.
  void Reset() { guest_->Reset(); }

  uint8_t Status() { return guest_->Status(); }

  // Resets the queue (RING_RESET) and forgets its ring; SetUpAgain gives it a new one.
  void ResetQueue(uint16_t index);
  void SetUpAgain(uint16_t index, uint16_t queue_size = 64);

  uint16_t queue_count() { return static_cast<uint16_t>(drivers_.size()); }

  virtio::testing::FakeDriver& queue(uint16_t index) { return *drivers_.at(index); }

  // Notifies if the device asked for it.
  void Kick(uint16_t index);
  void KickAlways(uint16_t index);
  // The next used buffer of the queue; aborts the test after `timeout`.
  virtio::testing::Used WaitUsed(uint16_t index,
                                 std::chrono::milliseconds timeout = std::chrono::seconds(10));
  std::optional<virtio::testing::Used> WaitMaybe(uint16_t index, std::chrono::milliseconds timeout);
  // The same without looking at the ring before the device has interrupted.
  virtio::testing::Used WaitInterrupted(
      uint16_t index, std::chrono::milliseconds timeout = std::chrono::seconds(10));
  // Until the device says DEVICE_NEEDS_RESET.
  bool WaitNeedsReset(std::chrono::milliseconds timeout = std::chrono::seconds(5));

  template <typename T>
  T Config(uint32_t offset) {
    T value;
    guest_->ReadConfig(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  uint64_t counter(std::string_view name);

  // What the driver took, as of the last Prepare.
  uint64_t features() const { return features_; }

  transport::TransportCore& core() { return guest_->core(); }

  GuestTransport& guest() { return *guest_; }

  virtio::testing::GuestRam& ram() { return ram_; }

  // With TransportKind::kCore.
  virtio::testing::FakeInterrupt& interrupt() { return *interrupt_; }

 private:
  std::optional<virtio::testing::Used> TakeUsed(uint16_t index);

  RigOptions options_;
  uint64_t features_ = 0;
  virtio::testing::GuestRam ram_{kRamSize};
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  std::vector<std::unique_ptr<virtio::testing::FakeDriver>> drivers_;
  const virtio::VirtioDevice* device_;     // for its counters
  std::unique_ptr<GuestTransport> guest_;  // last: stops the queues first
};

}  // namespace wyvern::devices::testing
