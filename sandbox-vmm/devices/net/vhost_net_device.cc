#include "net/vhost_net_device.h"

#include <sys/epoll.h>

#include <bit>
#include <utility>

#include "base/log.h"
#include "net/net_header.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

// Features that the kernel's side must have too; the others are this process's and the tap's.
constexpr uint64_t kRingAndBuffers = virtio::kRingFeatures | kNetMrgRxbuf;

}  // namespace

Result<std::unique_ptr<VhostNetDevice>> VhostNetDevice::Create(VhostNetOptions options) {
  WV_TRY_VOID(CheckInterface(options.interface));
  if (options.tap == nullptr || options.tap->pairs() == 0 ||
      options.vhost.size() != options.tap->pairs()) {
    return Fail(Code::kInvalidArgument, "a vhost-net device needs a descriptor for each tap");
  }
  if (!std::has_single_bit(options.queue_size) || options.queue_size > kMaxQueueSize) {
    return Fail(Code::kInvalidArgument, "a network queue's size is a power of two, at most 1024");
  }
  if (options.calls == nullptr) {
    options.calls = KernelVhostCalls();
  }
  std::vector<std::unique_ptr<VhostPair>> pairs;
  for (UniqueFd& fd : options.vhost) {
    WV_TRY(auto pair, VhostPair::Create(*options.calls, std::move(fd)));
    if ((pair->features() & virtio::kVersion1) == 0) {
      return Fail(Code::kFailedPrecondition, "this kernel's vhost-net has no VIRTIO 1");
    }
    pairs.push_back(std::move(pair));
  }
  for (uint16_t i = 1; i < options.tap->pairs(); ++i) {
    WV_TRY_VOID(options.tap->SetActive(i, false));
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  return std::unique_ptr<VhostNetDevice>(
      new VhostNetDevice(std::move(options), std::move(pairs), std::move(worker)));
}

VhostNetDevice::VhostNetDevice(VhostNetOptions options,
                               std::vector<std::unique_ptr<VhostPair>> pairs,
                               std::unique_ptr<LoopThread> worker)
    : tap_(std::move(options.tap)),
      calls_(std::move(options.calls)),
      config_(options.interface, tap_->pairs()),
      control_(config_, tap_->pairs(), *this),
      pairs_(std::move(pairs)),
      worker_(std::move(worker)) {
  uint64_t features =
      kRingAndBuffers | NetFeatures(options.interface, max_pairs(), tap_->offloads());
  features &= ~(kNetCtrlRx | kNetCtrlRxExtra);  // the kernel does not filter
  for (const auto& pair : pairs_) {
    features &= pair->features() | ~kRingAndBuffers;
  }
  traits_.device_id = virtio::kDeviceNet;
  traits_.features = features;
  traits_.queue_sizes.assign(size_t{2} * max_pairs(), options.queue_size);
  traits_.queue_sizes.push_back(kControlQueueSize);
  traits_.config_length = sizeof(NetConfigLayout);
  traits_.name = "vhost-net";
  roles_.resize(traits_.queue_sizes.size(), NetRole::kStopped);
  events_.resize(traits_.queue_sizes.size());
  others_.resize(traits_.queue_sizes.size());
}

VhostNetDevice::~VhostNetDevice() {
  worker_->Call([this] {
    for (uint16_t i = 0; i < static_cast<uint16_t>(roles_.size()); ++i) {
      End(i);
    }
  });
}

void VhostNetDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  config_.Read(offset, out);
}

void VhostNetDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> VhostNetDevice::StartQueue(uint16_t index, virtio::QueueResources resources,
                                    uint64_t features, std::optional<virtio::QueueState> resume) {
  Result<> result;
  worker_->Call([&] { result = Begin(index, std::move(resources), features, resume); });
  return result;
}

std::optional<virtio::QueueState> VhostNetDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] { state = End(index); });
  return state;
}

Result<> VhostNetDevice::Negotiate(uint64_t features) {
  if (negotiated_ && features_ == features) {
    return {};
  }
  WV_TRY_VOID(tap_->SetOffloads(TunOffloads(features & kNetGuestOffloads)));
  features_ = features;
  negotiated_ = true;
  return {};
}

Result<> VhostNetDevice::Begin(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  WV_TRY_VOID(Negotiate(features));
  std::shared_ptr<virtio::Interrupt> interrupt = resources.interrupt;
  const NetRole role = NetQueueRole(index, max_pairs(), features);
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    WV_TRY_VOID(BeginRing(index, resources, features, resume));
  } else {
    WV_TRY_VOID(
        BeginOther(index, std::move(resources), features, resume, role == NetRole::kControl));
  }
  interrupt_ = std::move(interrupt);
  roles_[index] = role;
  if (role == NetRole::kControl) {
    ServeControl(index);
  }
  return {};
}

Result<> VhostNetDevice::BeginRing(uint16_t index, const virtio::QueueResources& resources,
                                   uint64_t features, std::optional<virtio::QueueState> resume) {
  VhostPair& pair = *pairs_[index / 2];
  auto signals = WatchEvents(index, resources.interrupt);
  if (!signals) {
    UnwatchEvents(index);
    return tl::unexpected(std::move(signals).error());
  }
  auto started = pair.Start(index % 2, resources, features & (kRingAndBuffers | virtio::kVersion1),
                            signals->call, signals->error, resume);
  if (started) {
    started = Connect(index);
  }
  if (!started) {
    pair.Stop(index % 2);
    UnwatchEvents(index);
  }
  return started;
}

Result<> VhostNetDevice::BeginOther(uint16_t index, virtio::QueueResources resources,
                                    uint64_t features, std::optional<virtio::QueueState> resume,
                                    bool control) {
  WV_TRY(others_[index], ActiveQueue::Start(worker_->loop(), {.index = index,
                                                              .resources = std::move(resources),
                                                              .features = features,
                                                              .resume = resume,
                                                              .device = traits_.name,
                                                              .on_kick =
                                                                  [this, index, control] {
                                                                    if (control) {
                                                                      ServeControl(index);
                                                                    }
                                                                  },
                                                              .on_fault = [this] { Fault(); }}));
  return {};
}

// Used buffers are signalled to the transport's own eventfd where it has one, so that the interrupt
// does not pass through here.
Result<VhostNetDevice::Signals> VhostNetDevice::WatchEvents(
    uint16_t index, const std::shared_ptr<virtio::Interrupt>& interrupt) {
  WV_TRY(EventFd call, EventFd::Create());
  WV_TRY(EventFd error, EventFd::Create());
  Events& events =
      events_[index].emplace(Events{.call = std::move(call), .error = std::move(error)});
  WV_TRY(events.error_token, worker_->loop().Add(events.error.fd(), EPOLLIN | EPOLLET,
                                                 [this](uint32_t /*events*/) { Fault(); }));
  const FdRef own = interrupt->QueueCallFd(index);
  if (own.valid()) {
    return Signals{.call = own, .error = events.error.fd()};
  }
  WV_TRY(events.call_token, worker_->loop().Add(events.call.fd(), EPOLLIN | EPOLLET,
                                                [interrupt, index](uint32_t /*events*/) {
                                                  interrupt->SignalQueue(index);
                                                }));
  return Signals{.call = events.call.fd(), .error = events.error.fd()};
}

void VhostNetDevice::UnwatchEvents(uint16_t index) {
  std::optional<Events>& events = events_[index];
  if (events) {
    worker_->loop().Remove(events->call_token);
    worker_->loop().Remove(events->error_token);
    events.reset();
  }
}

std::optional<virtio::QueueState> VhostNetDevice::End(uint16_t index) {
  const NetRole role = std::exchange(roles_.at(index), NetRole::kStopped);
  if (role == NetRole::kStopped) {
    return std::nullopt;
  }
  std::optional<virtio::QueueState> state;
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    state = pairs_[index / 2]->Stop(index % 2);
    UnwatchEvents(index);
  } else {
    state = others_[index]->state();
    others_[index].reset();
  }
  return state;
}

void VhostNetDevice::ServeControl(uint16_t index) {
  ActiveQueue& queue = *others_[index];
  queue.Drain([&](virtio::Chain chain) {
    const uint32_t written = control_.Serve(chain, features_);
    queue.queue().Push(std::move(chain), written);
    return true;
  });
}

// Attaches or detaches the ring as its pair and the link are now.
Result<> VhostNetDevice::Connect(uint16_t index) {
  const auto pair = static_cast<uint16_t>(index / 2);
  if (pair < active_pairs_ && link_up_) {
    return pairs_[pair]->Attach(index % 2, tap_->fd(pair));
  }
  pairs_[pair]->Detach(index % 2);
  return {};
}

void VhostNetDevice::Fault() {
  faults_.fetch_add(1, std::memory_order_relaxed);
  NeedsReset();
}

// A ring is never attached to a tap that is not.
Result<> VhostNetDevice::SetPairActive(uint16_t pair, bool active) {
  if (active) {
    WV_TRY_VOID(tap_->SetActive(pair, true));
  }
  WV_TRY_VOID(Connect(static_cast<uint16_t>(2 * pair)));
  WV_TRY_VOID(Connect(static_cast<uint16_t>(2 * pair + 1)));
  if (!active) {
    WV_TRY_VOID(tap_->SetActive(pair, false));
  }
  return {};
}

bool VhostNetDevice::ApplyPairs(uint16_t pairs) {
  active_pairs_ = pairs;
  bool all = true;
  for (uint16_t i = 1; i < max_pairs(); ++i) {
    if (auto done = SetPairActive(i, i < pairs); !done) {
      WV_WARN_LIMITED("{}: queue pair {}: {}", traits_.name, i, done.error().message());
      all = false;
    }
  }
  return all;
}

bool VhostNetDevice::SetPairs(uint16_t pairs) {
  const uint16_t old = active_pairs_;
  if (ApplyPairs(pairs)) {
    return true;
  }
  (void)ApplyPairs(old);
  return false;
}

bool VhostNetDevice::SetOffloads(uint64_t offloads) {
  if (auto done = tap_->SetOffloads(TunOffloads(offloads)); !done) {
    WV_WARN_LIMITED("{}: {}", traits_.name, done.error().message());
    return false;
  }
  return true;
}

void VhostNetDevice::SetLinkUp(bool up) {
  worker_->Call([&] {
    if (!config_.SetStatus(kNetLinkUp, up)) {
      return;
    }
    link_up_ = up;
    tap_->SetCarrier(up);
    for (uint16_t i = 0; i < 2 * max_pairs(); ++i) {
      if (auto done = Connect(i); !done) {
        WV_WARN_LIMITED("{}: {}", traits_.name, done.error().message());
      }
    }
    if (interrupt_ != nullptr && (features_ & kNetStatus) != 0) {
      interrupt_->SignalConfig();
    }
  });
}

void VhostNetDevice::Reset() {
  worker_->Call([this] {
    (void)SetPairs(1);
    control_.Reset();
    features_ = 0;
    negotiated_ = false;
    interrupt_.reset();
  });
}

std::vector<virtio::CounterValue> VhostNetDevice::counters() const {
  return {{"commands", control_.commands()},
          {"commands_refused", control_.refused()},
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::devices
