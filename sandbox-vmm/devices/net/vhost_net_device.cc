#include "net/vhost_net_device.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
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
  WV_TRY_VOID(CheckQueueSize(options.queue_size));
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
  traits_.queue_sizes.push_back(kNetControlQueueSize);
  traits_.config_length = sizeof(NetConfigLayout);
  traits_.name = "vhost-net";
  roles_.resize(traits_.queue_sizes.size(), NetRole::kStopped);
  rings_.resize(traits_.queue_sizes.size());
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
  // Here, and not in the worker: the transport may have to route an interrupt for it.
  const FdRef call = resources.interrupt->QueueCallFd(index);
  Result<> result;
  worker_->Call([&] { result = Begin(index, std::move(resources), call, features, resume); });
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

Result<> VhostNetDevice::Begin(uint16_t index, virtio::QueueResources resources, FdRef call,
                               uint64_t features, std::optional<virtio::QueueState> resume) {
  WV_TRY_VOID(Negotiate(features));
  std::shared_ptr<virtio::Interrupt> interrupt = resources.interrupt;
  const NetRole role = NetQueueRole(index, max_pairs(), features);
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    rings_[index] = std::make_unique<Ring>(Ring{
        .resources = std::move(resources), .call = call, .features = features, .left = resume});
    if (auto begun = BeginRing(index); !begun) {
      rings_[index].reset();
      return begun;
    }
  } else {
    WV_TRY_VOID(BeginOther(index, std::move(resources), features, resume, role));
  }
  interrupt_ = std::move(interrupt);
  roles_[index] = role;
  if (role == NetRole::kControl) {
    control_.Serve(*others_[index], features_);
  }
  return {};
}

// Where the pair and the link say now. What fails is not served, and can be tried again.
Result<> VhostNetDevice::BeginRing(uint16_t index) {
  Ring& ring = *rings_[index];
  ring.in_kernel = index % 2 == 0 || in_use(index);
  if (ring.in_kernel) {
    WV_TRY_VOID(BeginInKernel(index, ring.left));
    ring.served = true;
    return {};
  }
  WV_TRY_VOID(BeginOther(index, ring.resources, ring.features, ring.left, NetRole::kTransmit));
  ring.served = true;
  DiscardSent(index);
  return {};
}

Result<> VhostNetDevice::BeginInKernel(uint16_t index, std::optional<virtio::QueueState> resume) {
  const Ring& ring = *rings_[index];
  VhostPair& pair = *pairs_[index / 2];
  auto signals = WatchEvents(index, ring.resources.interrupt, ring.call);
  if (!signals) {
    UnwatchEvents(index);
    return tl::unexpected(std::move(signals).error());
  }
  auto started =
      pair.Start(index % 2, ring.resources, ring.features & (kRingAndBuffers | virtio::kVersion1),
                 signals->call, signals->error, resume);
  if (started && in_use(index)) {
    started = pair.Attach(index % 2, tap_->fd(index / 2));
  }
  if (!started) {
    pair.Stop(index % 2);
    UnwatchEvents(index);
  }
  return started;
}

Result<> VhostNetDevice::BeginOther(uint16_t index, virtio::QueueResources resources,
                                    uint64_t features, std::optional<virtio::QueueState> resume,
                                    NetRole role) {
  WV_TRY(others_[index],
         ActiveQueue::Start(worker_->loop(), {.index = index,
                                              .resources = std::move(resources),
                                              .features = features,
                                              .resume = resume,
                                              .device = traits_.name,
                                              .on_kick =
                                                  [this, index, role] {
                                                    if (role == NetRole::kControl) {
                                                      control_.Serve(*others_[index], features_);
                                                    } else if (role == NetRole::kTransmit) {
                                                      DiscardSent(index);
                                                    }
                                                  },
                                              .on_fault = [this] { Fault(); }}));
  return {};
}

// Used buffers are signalled to the transport's own eventfd where it has one, so that the interrupt
// does not pass through here.
Result<VhostNetDevice::Signals> VhostNetDevice::WatchEvents(
    uint16_t index, const std::shared_ptr<virtio::Interrupt>& interrupt, FdRef own) {
  WV_TRY(EventFd call, EventFd::Create());
  WV_TRY(EventFd error, EventFd::Create());
  Events& events =
      events_[index].emplace(Events{.call = std::move(call), .error = std::move(error)});
  WV_TRY(events.error_token, worker_->loop().Add(events.error.fd(), EPOLLIN | EPOLLET,
                                                 [this](uint32_t /*events*/) { Fault(); }));
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
  if (std::exchange(roles_.at(index), NetRole::kStopped) == NetRole::kStopped) {
    return std::nullopt;
  }
  std::optional<virtio::QueueState> state;
  if (rings_[index]) {
    EndRing(index);
    state = rings_[index]->left;
    rings_[index].reset();
  } else {
    state = others_[index]->state();
    others_[index].reset();
  }
  return state;
}

// Of packets, wherever it is served.
void VhostNetDevice::EndRing(uint16_t index) {
  Ring& ring = *rings_[index];
  if (!std::exchange(ring.served, false)) {
    return;
  }
  if (ring.in_kernel) {
    ring.left = pairs_[index / 2]->Stop(index % 2);
    UnwatchEvents(index);
  } else {
    ring.left = others_[index]->state();
    others_[index].reset();
  }
}

// §5.1.9.5.6.1: the driver must not use a queue beyond the pairs in use. A link that is down takes
// what it is given.
void VhostNetDevice::DiscardSent(uint16_t index) {
  ActiveQueue& queue = *others_[index];
  std::atomic<uint64_t>& counter = index / 2 < active_pairs_ ? tx_link_down_ : tx_inactive_;
  queue.Drain([&](virtio::Chain chain) {
    counter.fetch_add(1, std::memory_order_relaxed);
    queue.queue().Push(std::move(chain), 0);
    return true;
  });
}

// What has come to the tap while its link was down. The carrier is still off, so no more comes; the
// count is bound nevertheless, since a kernel before 5.0 knows no carrier of taps.
void VhostNetDevice::DiscardReceived(uint16_t pair) {
  constexpr uint32_t kMost = 1U << 16U;
  // A tap gives no packet without its header; what is longer it cuts, and the packet is gone.
  std::array<std::byte, kNetHeaderSize> start{};
  const std::array<iovec, 1> part = {{{.iov_base = start.data(), .iov_len = start.size()}}};
  for (uint32_t i = 0; i < kMost; ++i) {
    const ssize_t got = tap_->Receive(pair, part);
    if (got == -EAGAIN || got == 0) {
      break;
    }
    rx_link_down_.fetch_add(1, std::memory_order_relaxed);
  }
}

// Serves the ring as its pair and the link are now: a transmit ring changes hands.
Result<> VhostNetDevice::Connect(uint16_t index) {
  if (!rings_[index]) {
    return {};
  }
  VhostPair& pair = *pairs_[index / 2];
  const Ring& ring = *rings_[index];
  if (!ring.served || (index % 2 == 1 && ring.in_kernel != in_use(index))) {
    EndRing(index);
    return BeginRing(index);
  }
  if (in_use(index)) {
    return pair.Attach(index % 2, tap_->fd(index / 2));
  }
  if (ring.in_kernel) {
    pair.Detach(index % 2);
  }
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
    for (uint16_t i = 0; up && i < active_pairs_; ++i) {
      DiscardReceived(i);
    }
    link_up_ = up;
    tap_->SetCarrier(up);
    for (uint16_t i = 0; i < 2 * max_pairs(); ++i) {
      if (auto done = Connect(i); !done) {
        WV_WARN_LIMITED("{}: {}", traits_.name, done.error().message());
        Fault();
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
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {{"rx_link_down", get(rx_link_down_)},     {"tx_inactive", get(tx_inactive_)},
          {"tx_link_down", get(tx_link_down_)},     {"commands", control_.commands()},
          {"commands_refused", control_.refused()}, {"faults", get(faults_)}};
}

}  // namespace wyvern::devices
