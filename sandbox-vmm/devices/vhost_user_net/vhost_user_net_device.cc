#include "vhost_user_net/vhost_user_net_device.h"

#include <utility>

#include "base/log.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

// UFO (VIRTIO §5.1.3): our own devices have it no more, since Linux' taps have not; some back-ends have.
constexpr uint64_t kUfo = uint64_t{1} << 10U | uint64_t{1} << 14U;

// What packets may look like and the rings can do: the back-end's.
constexpr uint64_t kOfBackend = virtio::kRingFeatures | kNetCsum | kNetGuestOffloads |
                                kNetHostTso4 | kNetHostTso6 | kNetHostEcn | kNetHostUso | kUfo |
                                kNetMrgRxbuf;

// Ours, whoever moves the packets. Nobody filters, and a back-end cannot be told other offloads.
uint64_t OwnFeatures(const NetInterface& interface) {
  return NetFeatures(interface, 1, 0) & ~(kNetMrgRxbuf | kNetCtrlRx | kNetCtrlRxExtra);
}

vhost_user::FrontendOptions FrontendFor(VhostUserNetOptions& options) {
  vhost_user::FrontendOptions frontend = std::move(options.frontend);
  frontend.device_id = virtio::kDeviceNet;
  frontend.name = "vhost-user-net";
  frontend.features = kOfBackend | (options.pairs > 1 ? kNetMq : 0);
  frontend.own_features = OwnFeatures(options.interface);
  frontend.kept_features = kNetControlFeatures;
  frontend.queue_sizes.assign(size_t{2} * options.pairs, options.queue_size);
  frontend.mtu = options.interface.mtu;
  return frontend;
}

}  // namespace

Result<std::unique_ptr<VhostUserNetDevice>> VhostUserNetDevice::Create(
    VhostUserNetOptions options) {
  WV_TRY_VOID(CheckInterface(options.interface));
  if (options.pairs == 0 || options.pairs > kMaxPairs) {
    return Fail(Code::kInvalidArgument, "a vhost-user network device has 1 to 128 queue pairs");
  }
  WV_TRY_VOID(CheckQueueSize(options.queue_size));
  WV_TRY(auto frontend,
         vhost_user::Frontend::Create(std::move(options.socket), FrontendFor(options)));
  if (options.pairs > 1 && (frontend->traits().features & kNetMq) == 0) {
    return Fail(Code::kFailedPrecondition, "the back-end has one queue pair (no VIRTIO_NET_F_MQ)");
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  std::unique_ptr<VhostUserNetDevice> device(
      new VhostUserNetDevice(options, std::move(frontend), std::move(worker)));
  WV_TRY_VOID(device->EnableRings());  // no queue runs: nothing else uses it yet
  return device;
}

VhostUserNetDevice::VhostUserNetDevice(const VhostUserNetOptions& options,
                                       std::unique_ptr<vhost_user::Frontend> frontend,
                                       std::unique_ptr<LoopThread> worker)
    : max_pairs_(options.pairs),
      frontend_(std::move(frontend)),
      config_(options.interface, options.pairs),
      control_(config_, options.pairs, *this),
      worker_(std::move(worker)) {
  traits_ = frontend_->traits();
  traits_.queue_sizes.push_back(kNetControlQueueSize);
  traits_.config_length = sizeof(NetConfigLayout);
  roles_.resize(traits_.queue_sizes.size(), NetRole::kStopped);
  own_.resize(traits_.queue_sizes.size());
  frontend_->set_fault_callback([this] { NeedsReset(); });
}

VhostUserNetDevice::~VhostUserNetDevice() {
  worker_->Call([this] { own_.clear(); });
}

void VhostUserNetDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  config_.Read(offset, out);
}

void VhostUserNetDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> VhostUserNetDevice::StartQueue(uint16_t index, virtio::QueueResources resources,
                                        uint64_t features,
                                        std::optional<virtio::QueueState> resume) {
  if (roles_.at(index) != NetRole::kStopped) {
    return Fail(Code::kInvalidArgument, "the queue is running");
  }
  const NetRole role = NetQueueRole(index, max_pairs_, features);
  std::shared_ptr<virtio::Interrupt> interrupt = resources.interrupt;
  worker_->Call([&] {
    features_ = features;
    interrupt_ = std::move(interrupt);
  });
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    WV_TRY_VOID(frontend_->StartQueue(index, std::move(resources), features, resume));
  } else {
    WV_TRY_VOID(BeginOwn(index, std::move(resources), features, resume, role));
  }
  roles_[index] = role;
  return {};
}

Result<> VhostUserNetDevice::BeginOwn(uint16_t index, virtio::QueueResources resources,
                                      uint64_t features, std::optional<virtio::QueueState> resume,
                                      NetRole role) {
  return ActiveQueue::StartOn(*worker_,
                              {.index = index,
                               .resources = std::move(resources),
                               .features = features,
                               .resume = resume,
                               .device = traits_.name,
                               .on_kick =
                                   [this, index, role] {
                                     if (role == NetRole::kControl) {
                                       control_.Serve(*own_[index], features_);
                                     }
                                   },
                               .on_fault =
                                   [this] {
                                     faults_.fetch_add(1, std::memory_order_relaxed);
                                     NeedsReset();
                                   }},
                              [&](std::unique_ptr<ActiveQueue> queue) {
                                own_[index] = std::move(queue);
                                if (role == NetRole::kControl) {
                                  control_.Serve(*own_[index], features_);
                                }
                              });
}

std::optional<virtio::QueueState> VhostUserNetDevice::StopQueue(uint16_t index) {
  const NetRole role = std::exchange(roles_.at(index), NetRole::kStopped);
  if (role == NetRole::kStopped) {
    return std::nullopt;
  }
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    return frontend_->StopQueue(index);
  }
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    state = own_[index]->state();
    own_[index].reset();
  });
  return state;
}

// As the pairs in use and the link say. The first error; what the back-end has not taken stays as it was.
Result<> VhostUserNetDevice::EnableRings() {
  Result<> result;
  for (uint16_t i = 0; i < 2 * max_pairs_; ++i) {
    auto done = frontend_->EnableQueue(i, link_up_ && i / 2 < active_pairs_);
    if (!done && result) {
      result = std::move(done);
    }
  }
  return result;
}

bool VhostUserNetDevice::SetPairs(uint16_t pairs) {
  const uint16_t old = std::exchange(active_pairs_, pairs);
  if (auto done = EnableRings(); !done) {
    WV_WARN_LIMITED("{}: {} queue pairs: {}", traits_.name, pairs, done.error().message());
    active_pairs_ = old;
    (void)EnableRings();
    return false;
  }
  return true;
}

// Not offered.
bool VhostUserNetDevice::SetOffloads(uint64_t /*offloads*/) {
  return false;
}

void VhostUserNetDevice::SignalConfig() {
  if (interrupt_ != nullptr && (features_ & kNetStatus) != 0) {
    interrupt_->SignalConfig();
  }
}

void VhostUserNetDevice::SetLinkUp(bool up) {
  worker_->Call([&] {
    if (!config_.SetStatus(kNetLinkUp, up)) {
      return;
    }
    link_up_ = up;
    if (auto done = EnableRings(); !done) {
      WV_WARN_LIMITED("{}: link {}: {}", traits_.name, up ? "up" : "down", done.error().message());
    }
    SignalConfig();
  });
}

Result<> VhostUserNetDevice::Announce() {
  bool asked = false;
  worker_->Call([&] {
    asked = (features_ & kNetGuestAnnounce) != 0;
    if (asked && config_.SetStatus(kNetAnnounce, true)) {
      SignalConfig();
    }
  });
  return asked ? Result<>() : frontend_->SendRarp(config_.mac());
}

void VhostUserNetDevice::Reset() {
  frontend_->Reset();
  worker_->Call([this] {
    active_pairs_ = 1;
    (void)EnableRings();  // no queue runs: there is nothing to fail
    control_.Reset();
    features_ = 0;
    interrupt_.reset();
  });
}

bool VhostUserNetDevice::TakesMemory(const mem::GuestMemory& memory) {
  return frontend_->TakesMemory(memory);
}

// The control queue has its config's feed.
bool VhostUserNetDevice::MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) {
  return frontend_->MemoryGrew(memory);
}

std::vector<virtio::CounterValue> VhostUserNetDevice::counters() const {
  std::vector<virtio::CounterValue> all = frontend_->counters();
  all.push_back({"commands", control_.commands()});
  all.push_back({"commands_refused", control_.refused()});
  all.push_back({"faults", faults_.load(std::memory_order_relaxed)});
  return all;
}

}  // namespace wyvern::devices
