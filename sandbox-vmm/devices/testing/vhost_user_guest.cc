// A guest whose device is in "another process": TransportCore drives our vhost-user front-end, and
// our back-end serves the device in a thread.
#include "base/check.h"
#include "base/unix_socket.h"
#include "testing/backend_process.h"
#include "testing/core_guest.h"
#include "vhost_user/frontend.h"

namespace wyvern::devices::testing {

namespace {

// What the front-end answers for itself.
vhost_user::FrontendOptions OptionsFor(virtio::VirtioDevice& device) {
  const virtio::DeviceTraits& traits = device.traits();
  vhost_user::FrontendOptions options;
  options.device_id = traits.device_id;
  options.name = traits.name;
  options.features = traits.features;
  options.queue_sizes = traits.queue_sizes;
  if (traits.control_features != 0) {  // the queue of a front-end that knows what to do with it
    options.features &= ~traits.control_features;
    options.queue_sizes.pop_back();
  }
  options.config.resize(traits.config_length);
  device.ReadConfig(0, options.config);
  return options;
}

// Nothing of the device's kind is ours.
std::unique_ptr<virtio::VirtioDevice> AnyFrontend(UniqueFd socket, virtio::VirtioDevice& device) {
  auto frontend = vhost_user::Frontend::Create(std::move(socket), OptionsFor(device));
  WV_CHECK(frontend.has_value());
  return *std::move(frontend);
}

class VhostUserGuest final : public GuestTransport {
 public:
  VhostUserGuest(std::unique_ptr<virtio::VirtioDevice> device,
                 std::shared_ptr<const mem::GuestMemory> memory,
                 std::shared_ptr<virtio::testing::FakeInterrupt> interrupt,
                 const FrontendMaker& maker) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(pair.has_value());
    virtio::VirtioDevice& served = *device;
    backend_ = std::make_unique<BackendProcess>(std::move(pair->second), std::move(device));
    auto frontend =
        maker ? maker(std::move(pair->first), served) : AnyFrontend(std::move(pair->first), served);
    guest_ =
        std::make_unique<CoreGuest>(std::move(frontend), std::move(memory), std::move(interrupt));
  }

  uint64_t OfferedFeatures() override { return guest_->OfferedFeatures(); }

  bool Negotiate(uint64_t features) override {
    Reset();
    return guest_->Negotiate(features);
  }

  uint16_t MaxQueueSize(uint16_t index) override { return guest_->MaxQueueSize(index); }

  void SetUpQueue(uint16_t index, const virtio::QueueConfig& config) override {
    guest_->SetUpQueue(index, config);
  }

  void DriverOk() override { guest_->DriverOk(); }

  uint8_t Status() override { return guest_->Status(); }

  void Reset() override { guest_->Reset(); }

  bool ResetQueue(uint16_t index) override { return guest_->ResetQueue(index); }

  void Kick(uint16_t index) override { guest_->Kick(index); }

  bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) override {
    return guest_->WaitInterrupt(index, timeout);
  }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    guest_->ReadConfig(offset, out);
  }

  transport::TransportCore& core() override { return guest_->core(); }

 private:
  std::unique_ptr<BackendProcess> backend_;
  std::unique_ptr<CoreGuest> guest_;  // last: its front-end hangs up, which ends the back-end
};

}  // namespace

std::unique_ptr<GuestTransport> MakeVhostUserGuest(
    std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
    std::shared_ptr<virtio::testing::FakeInterrupt> interrupt, const FrontendMaker& maker) {
  return std::make_unique<VhostUserGuest>(std::move(device), std::move(memory),
                                          std::move(interrupt), maker);
}

}  // namespace wyvern::devices::testing
