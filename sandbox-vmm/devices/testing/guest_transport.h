// testing/guest_transport.h — the guest driver's way to a device, whatever carries it: the product's
// transport with a driver's accesses in front of it.
// Threads: one thread is the guest; the device has its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/fd.h"
#include "transport/transport_core.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::devices::testing {

enum class TransportKind : uint8_t { kCore, kPci, kMmio, kVhostUser };

const char* TransportName(TransportKind kind);

// What a guest sees of a device that another process serves: the front-end of its kind, connected to
// `device`'s back-end. `device` is there to ask what it is: by its configuration, no more.
using FrontendMaker = std::function<std::unique_ptr<virtio::VirtioDevice>(
    UniqueFd socket, virtio::VirtioDevice& device)>;

class GuestTransport {
 public:
  virtual ~GuestTransport() = default;

  virtual uint64_t OfferedFeatures() = 0;
  // Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK; true if that stayed.
  virtual bool Negotiate(uint64_t features) = 0;
  virtual uint16_t MaxQueueSize(uint16_t index) = 0;
  // Registers of the queue, then enabled.
  virtual void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) = 0;
  virtual void DriverOk() = 0;
  virtual uint8_t Status() = 0;
  virtual void Reset() = 0;
  // VIRTIO §2.6.1; true once the queue is reset and disabled.
  virtual bool ResetQueue(uint16_t index) = 0;
  virtual void Kick(uint16_t index) = 0;
  // An interrupt that may be for the queue, since the last one that was waited for; false after
  // `timeout`.
  virtual bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) = 0;
  virtual void ReadConfig(uint32_t offset, std::span<std::byte> out) = 0;

  // The machine's side of it.
  virtual transport::TransportCore& core() = 0;
};

// `interrupt` counts what the device signals, with kCore and kVhostUser; the others have interrupts
// of their own. `maker`: for kVhostUser; without it the front-end knows nothing of the device's kind.
std::unique_ptr<GuestTransport> MakeGuestTransport(
    TransportKind kind, std::unique_ptr<virtio::VirtioDevice> device,
    std::shared_ptr<const mem::GuestMemory> memory,
    std::shared_ptr<virtio::testing::FakeInterrupt> interrupt,
    const FrontendMaker& maker = nullptr);

}  // namespace wyvern::devices::testing
