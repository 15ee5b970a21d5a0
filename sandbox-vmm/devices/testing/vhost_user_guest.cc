// A guest whose device is in "another process": TransportCore drives our vhost-user front-end, and
// our back-end serves the device in a thread.
#include <poll.h>

#include <atomic>
#include <thread>

#include "base/check.h"
#include "base/unix_socket.h"
#include "testing/core_guest.h"
#include "vhost_user/backend.h"
#include "vhost_user/frontend.h"

namespace wyvern::devices::testing {

namespace {

// The device, and whether it has reported a fault: the back-end tells its front-end by an eventfd of
// SET_VRING_ERR, which ours does not take, so the guest's status does not show it.
class WatchedDevice final : public virtio::VirtioDevice {
 public:
  WatchedDevice(std::unique_ptr<virtio::VirtioDevice> device,
                std::shared_ptr<std::atomic<bool>> broken)
      : broken_(std::move(broken)), device_(std::move(device)) {
    device_->set_fault_callback([this] {
      broken_->store(true);
      NeedsReset();
    });
  }

  const virtio::DeviceTraits& traits() const override { return device_->traits(); }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    device_->ReadConfig(offset, out);
  }

  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override {
    device_->WriteConfig(offset, in);
  }

  void FeaturesAccepted(uint64_t features) override { device_->FeaturesAccepted(features); }

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override {
    return device_->StartQueue(index, std::move(resources), features, resume);
  }

  std::optional<virtio::QueueState> StopQueue(uint16_t index) override {
    return device_->StopQueue(index);
  }

  void Reset() override { device_->Reset(); }

  std::vector<virtio::CounterValue> counters() const override { return device_->counters(); }

 private:
  std::shared_ptr<std::atomic<bool>> broken_;
  std::unique_ptr<virtio::VirtioDevice> device_;
};

// The back-end's process: a thread that ends with the connection.
class BackendProcess {
 public:
  BackendProcess(UniqueFd socket, std::unique_ptr<virtio::VirtioDevice> device)
      : backend_(std::make_unique<vhost_user::Backend>(std::move(socket), std::move(device),
                                                       vhost_user::BackendOptions{})),
        thread_([this] { Serve(); }) {}

  // Preconditions: the other end of the socket is closed.
  ~BackendProcess() { thread_.join(); }

  BackendProcess(const BackendProcess&) = delete;
  BackendProcess& operator=(const BackendProcess&) = delete;

 private:
  void Serve() {
    for (;;) {
      pollfd poll{.fd = backend_->fd().get(), .events = POLLIN, .revents = 0};
      if (::poll(&poll, 1, -1) == 1 && !backend_->Serve().has_value()) {
        break;
      }
    }
    backend_.reset();
  }

  std::unique_ptr<vhost_user::Backend> backend_;
  std::thread thread_;
};

// What the front-end answers for itself.
vhost_user::FrontendOptions OptionsFor(virtio::VirtioDevice& device) {
  const virtio::DeviceTraits& traits = device.traits();
  vhost_user::FrontendOptions options;
  options.device_id = traits.device_id;
  options.name = traits.name;
  options.features = traits.features;
  options.queue_sizes = traits.queue_sizes;
  options.config.resize(traits.config_length);
  device.ReadConfig(0, options.config);
  return options;
}

class VhostUserGuest final : public GuestTransport {
 public:
  VhostUserGuest(std::unique_ptr<virtio::VirtioDevice> device,
                 std::shared_ptr<const mem::GuestMemory> memory,
                 std::shared_ptr<virtio::testing::FakeInterrupt> interrupt) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    WV_CHECK(pair.has_value());
    vhost_user::FrontendOptions options = OptionsFor(*device);
    backend_ = std::make_unique<BackendProcess>(
        std::move(pair->second), std::make_unique<WatchedDevice>(std::move(device), broken_));
    auto frontend = vhost_user::Frontend::Create(std::move(pair->first), std::move(options));
    WV_CHECK(frontend.has_value());
    guest_ =
        std::make_unique<CoreGuest>(*std::move(frontend), std::move(memory), std::move(interrupt));
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

  void Reset() override {
    guest_->Reset();
    broken_->store(false);  // no queue runs that could say it again
  }

  bool ResetQueue(uint16_t index) override { return guest_->ResetQueue(index); }

  void Kick(uint16_t index) override { guest_->Kick(index); }

  bool WaitInterrupt(uint16_t index, std::chrono::milliseconds timeout) override {
    return guest_->WaitInterrupt(index, timeout);
  }

  bool WaitBroken(std::chrono::milliseconds timeout) override {
    const auto end = std::chrono::steady_clock::now() + timeout;
    while (!broken_->load() && (Status() & virtio::kStatusNeedsReset) == 0) {
      if (std::chrono::steady_clock::now() >= end) {
        return false;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override {
    guest_->ReadConfig(offset, out);
  }

  transport::TransportCore& core() override { return guest_->core(); }

 private:
  std::shared_ptr<std::atomic<bool>> broken_ = std::make_shared<std::atomic<bool>>(false);
  std::unique_ptr<BackendProcess> backend_;
  std::unique_ptr<CoreGuest> guest_;  // last: its front-end hangs up, which ends the back-end
};

}  // namespace

std::unique_ptr<GuestTransport> MakeVhostUserGuest(
    std::unique_ptr<virtio::VirtioDevice> device, std::shared_ptr<const mem::GuestMemory> memory,
    std::shared_ptr<virtio::testing::FakeInterrupt> interrupt) {
  return std::make_unique<VhostUserGuest>(std::move(device), std::move(memory),
                                          std::move(interrupt));
}

}  // namespace wyvern::devices::testing
