// A guest over virtio-mmio: registers, doorbells that match by value as KVM's do, and one
// edge-triggered interrupt that says in InterruptStatus what it is about.
#include "transport/testing/mmio_guest.h"

#include <vector>

#include "base/check.h"
#include "testing/core_guest.h"

namespace wyvern::devices::testing {

namespace {

using transport::MmioRegister;
using transport::MmioTransport;

class MmioGuestTransport final : public GuestTransport {
 public:
  MmioGuestTransport(std::unique_ptr<virtio::VirtioDevice> device,
                     std::shared_ptr<const mem::GuestMemory> memory)
      : line_(MakeLine()), interrupted_(device->traits().queue_sizes.size()) {
    auto made = MmioTransport::Create(std::move(device), std::move(memory), line_,
                                      &guest_.doorbells, {.address = guest_.kBase});
    WV_CHECK(made.has_value());
    transport_ = *std::move(made);
    guest_.Plug(transport_);
    WV_CHECK(guest_.Get(MmioRegister::kMagicValue) == transport::kMmioMagic);
    WV_CHECK(guest_.Get(MmioRegister::kVersion) == transport::kMmioVersion);
  }

  uint64_t OfferedFeatures() override { return guest_.OfferedFeatures(); }

  bool Negotiate(uint64_t features) override { return guest_.Negotiate(features); }

  uint16_t MaxQueueSize(uint16_t index) override { return guest_.QueueSizeMax(index); }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) override {
    guest_.SetUpQueue(index, config);
  }

  void DriverOk() override { guest_.DriverOk(); }

  uint8_t Status() override { return guest_.status(); }

  void Reset() override {
    guest_.Set(MmioRegister::kStatus, 0);
    WV_CHECK(guest_.status() == 0);
  }

  bool ResetQueue(uint16_t index) override { return guest_.ResetQueue(index); }

  void Kick(uint16_t index) override { WV_CHECK(guest_.Ring(index)); }

  // VIRTIO §4.2.3.4.1: status, acknowledgement, and then every queue may have used buffers.
  bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) override {
    const auto end = std::chrono::steady_clock::now() + timeout;
    while (!interrupted_.at(index)) {
      const auto left =
          std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      if (left.count() <= 0 || !TakeEvent(line_.event().fd(), left)) {
        return false;
      }
      const uint32_t status = guest_.Get(MmioRegister::kInterruptStatus);
      guest_.Set(MmioRegister::kInterruptAck, status);
      if ((status & transport::kMmioUsedBuffer) != 0) {
        interrupted_.assign(interrupted_.size(), true);
      }
    }
    interrupted_.at(index) = false;
    return true;
  }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = std::byte{guest_.Read<uint8_t>(transport::kMmioConfig + offset + i)};
    }
  }

  transport::TransportCore& core() override { return transport_->core(); }

 private:
  static EventFd MakeLine() {
    auto event = EventFd::Create();
    WV_CHECK(event.has_value());
    return *std::move(event);
  }

  transport::EventLine line_;
  transport::testing::MmioGuest guest_;  // doorbells outlive the transport
  std::vector<bool> interrupted_;
  std::shared_ptr<MmioTransport> transport_;
};

}  // namespace

std::unique_ptr<GuestTransport> MakeMmioGuest(std::unique_ptr<virtio::VirtioDevice> device,
                                              std::shared_ptr<const mem::GuestMemory> memory) {
  return std::make_unique<MmioGuestTransport>(std::move(device), std::move(memory));
}

}  // namespace wyvern::devices::testing
