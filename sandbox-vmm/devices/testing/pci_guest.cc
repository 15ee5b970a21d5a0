// A guest over virtio-pci: BAR accesses, doorbells that match as KVM's do, MSI-X vector 0 for
// configuration changes and one more per queue.
#include "transport/testing/pci_guest.h"

#include "base/check.h"
#include "testing/core_guest.h"
#include "transport/pci_transport.h"

namespace wyvern::devices::testing {

namespace {

using transport::CommonField;
using transport::PciTransport;

class PciGuestTransport final : public GuestTransport {
 public:
  PciGuestTransport(std::unique_ptr<virtio::VirtioDevice> device,
                    std::shared_ptr<const mem::GuestMemory> memory) {
    const auto queues = static_cast<uint16_t>(device->traits().queue_sizes.size());
    auto made =
        PciTransport::Create(std::move(device), std::move(memory), guest_.router, guest_.doorbells);
    WV_CHECK(made.has_value());
    transport_ = *std::move(made);
    guest_.Plug(transport_);
    guest_.EnableMsix(static_cast<uint16_t>(queues + 1));
  }

  uint64_t OfferedFeatures() override { return guest_.OfferedFeatures(); }

  bool Negotiate(uint64_t features) override {
    const bool kept = guest_.Negotiate(features);
    guest_.Set(CommonField::kConfigVector, Le16(uint16_t{0}));
    WV_CHECK(guest_.Get<Le16>(CommonField::kConfigVector) == 0);
    notification_data_ = (features & virtio::kNotificationData) != 0;
    return kept;
  }

  // Before the driver has chosen a size.
  uint16_t MaxQueueSize(uint16_t index) override { return guest_.QueueSize(index); }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) override {
    guest_.SetUpQueue(index, config, static_cast<uint16_t>(index + 1));
  }

  void DriverOk() override { guest_.DriverOk(); }

  uint8_t Status() override { return guest_.status(); }

  void Reset() override {
    guest_.SetStatus(0);
    WV_CHECK(guest_.status() == 0);
  }

  bool ResetQueue(uint16_t index) override { return guest_.ResetQueue(index); }

  // A 32-bit notification with data, where it is negotiated. Always by the doorbell: there is one
  // for each queue that has been enabled.
  void Kick(uint16_t index) override {
    WV_CHECK(notification_data_ ? guest_.Ring(index, Le32(index | kData))
                                : guest_.Ring(index, Le16(index)));
  }

  bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) override {
    const int event = guest_.VectorEvent(static_cast<uint16_t>(index + 1));
    WV_CHECK(event >= 0);
    return TakeEvent(FdRef(event), timeout);
  }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = std::byte{guest_.Read<uint8_t>(transport::kDeviceOffset + offset + i)};
    }
  }

  transport::TransportCore& core() override { return transport_->core(); }

 private:
  static constexpr uint32_t kData = 0x12340000;  // next_off and next_wrap: for nobody

  transport::testing::PciGuest guest_;  // router and doorbells outlive the transport
  std::shared_ptr<PciTransport> transport_;
  bool notification_data_ = false;
};

}  // namespace

std::unique_ptr<GuestTransport> MakePciGuest(std::unique_ptr<virtio::VirtioDevice> device,
                                             std::shared_ptr<const mem::GuestMemory> memory) {
  return std::make_unique<PciGuestTransport>(std::move(device), std::move(memory));
}

}  // namespace wyvern::devices::testing
