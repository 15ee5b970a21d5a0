#include "net/net_device.h"

#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "net/net_header.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

Result<std::unique_ptr<NetDevice>> NetDevice::Create(NetOptions options) {
  WV_TRY_VOID(CheckInterface(options.interface));
  if (options.tap == nullptr || options.tap->pairs() == 0) {
    return Fail(Code::kInvalidArgument, "a network device needs a tap");
  }
  WV_TRY_VOID(CheckQueueSize(options.queue_size));
  // Multiqueue is off until the driver wants it (§5.1.9.5.5).
  for (uint16_t i = 1; i < options.tap->pairs(); ++i) {
    WV_TRY_VOID(options.tap->SetActive(i, false));
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  return std::unique_ptr<NetDevice>(new NetDevice(std::move(options), std::move(worker)));
}

NetDevice::NetDevice(NetOptions options, std::unique_ptr<LoopThread> worker)
    : tap_(std::move(options.tap)),
      config_(options.interface, tap_->pairs()),
      control_(config_, tap_->pairs(), *this),
      shared_{.loop = worker->loop(),
              .tap = *tap_,
              .filter = control_.filter(),
              .name = "net",
              .room_wait = options.room_wait,
              .mtu = options.interface.mtu},
      worker_(std::move(worker)) {
  const RateLimiter::Time now = RateLimiter::Now();
  shared_.receive = RateLimiter(options.receive, now);
  shared_.transmit = RateLimiter(options.transmit, now);
  traits_.device_id = virtio::kDeviceNet;
  traits_.features =
      virtio::kRingFeatures | NetFeatures(options.interface, max_pairs(), tap_->offloads());
  traits_.queue_sizes.assign(size_t{2} * max_pairs(), options.queue_size);
  traits_.queue_sizes.push_back(kNetControlQueueSize);
  traits_.config_length = sizeof(NetConfigLayout);
  traits_.name = "net";
  traits_.runs_disabled = true;
  traits_.control_features = kNetControlFeatures;
  for (uint16_t i = 0; i < max_pairs(); ++i) {
    pairs_.emplace_back(shared_, i, [this, i] { OnBlocked(i); });
  }
  roles_.resize(traits_.queue_sizes.size(), NetRole::kStopped);
  others_.resize(traits_.queue_sizes.size());
}

NetDevice::~NetDevice() {
  worker_->Call([this] {
    for (uint16_t i = 0; i < static_cast<uint16_t>(roles_.size()); ++i) {
      End(i);
    }
  });
}

void NetDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  config_.Read(offset, out);
}

void NetDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> NetDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  Result<> result;
  worker_->Call([&] { result = Begin(index, std::move(resources), features, resume); });
  return result;
}

std::optional<virtio::QueueState> NetDevice::StopQueue(uint16_t index) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] { state = End(index); });
  return state;
}

// A driver's features take effect with its first queue; every negotiated offload is then on
// (§5.1.9.5.9.1). Queues that stop and start again keep what the driver has set since.
Result<> NetDevice::Negotiate(uint64_t features) {
  if (negotiated_ && shared_.features == features) {
    return {};
  }
  const uint64_t offloads = features & kNetGuestOffloads;
  WV_TRY_VOID(tap_->SetOffloads(TunOffloads(offloads)));
  shared_.features = features;
  shared_.offloads = offloads;
  negotiated_ = true;
  (void)SetPairs(1);  // nothing is put into use, so there is nothing to fail
  if (rings_decide()) {
    shared_.pairs = max_pairs();
  }
  return {};
}

// No driver may have MQ without the control queue (§5.1.3.1): a front-end has that one.
bool NetDevice::rings_decide() const {
  return (shared_.features & (kNetMq | kNetCtrlVq)) == kNetMq;
}

// Where the rings decide: packets are steered to the pairs whose receive ring is enabled. A queue that
// stops keeps its place in the tap, since most start again at once.
Result<> NetDevice::Steer(uint16_t pair) {
  const NetReceiver& receiver = pairs_[pair].receiver;
  if (pair == 0 || !rings_decide() || !receiver.running()) {
    return {};
  }
  return tap_->SetActive(pair, receiver.enabled());
}

Result<> NetDevice::Begin(uint16_t index, virtio::QueueResources resources, uint64_t features,
                          std::optional<virtio::QueueState> resume) {
  WV_TRY_VOID(Negotiate(features));
  const NetRole role = NetQueueRole(index, max_pairs(), features);
  std::shared_ptr<virtio::Interrupt> interrupt = resources.interrupt;
  WV_TRY(auto queue,
         ActiveQueue::Start(worker_->loop(), {.index = index,
                                              .resources = std::move(resources),
                                              .features = features,
                                              .resume = resume,
                                              .device = traits_.name,
                                              .on_kick = [this, index] { OnKick(index); },
                                              .on_fault =
                                                  [this] {
                                                    NetCount(faults_);
                                                    NeedsReset();
                                                  }}));
  const auto pair = static_cast<uint16_t>(index / 2);
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    WV_TRY_VOID(Watch(pair));
  }
  interrupt_ = std::move(interrupt);
  roles_[index] = role;
  if (role == NetRole::kReceive) {
    pairs_[pair].receiver.Start(std::move(queue));
    if (auto steered = Steer(pair); !steered) {
      End(index);
      return steered;
    }
  } else if (role == NetRole::kTransmit) {
    pairs_[pair].transmitter.Start(std::move(queue));
  } else {
    others_[index] = std::move(queue);
    OnKick(index);
  }
  return {};
}

std::optional<virtio::QueueState> NetDevice::End(uint16_t index) {
  const NetRole role = std::exchange(roles_.at(index), NetRole::kStopped);
  if (role == NetRole::kStopped) {
    return std::nullopt;
  }
  std::optional<virtio::QueueState> state;
  if (role == NetRole::kReceive || role == NetRole::kTransmit) {
    Pair& pair = pairs_[index / 2];
    state = role == NetRole::kReceive ? pair.receiver.Stop() : pair.transmitter.Stop();
    Unwatch(pair);
  } else {
    state = others_[index]->state();
    others_[index].reset();
  }
  return state;
}

void NetDevice::OnKick(uint16_t index) {
  switch (roles_[index]) {
    case NetRole::kReceive:
      pairs_[index / 2].receiver.Serve();
      break;
    case NetRole::kTransmit:
      pairs_[index / 2].transmitter.Serve();
      break;
    case NetRole::kControl:
      control_.Serve(*others_[index], shared_.features);
      break;
    case NetRole::kNone:
    case NetRole::kStopped:
      break;
  }
}

// Edge-triggered: a tap whose packets nobody wants now costs nothing.
Result<> NetDevice::Watch(uint16_t index) {
  Pair& pair = pairs_[index];
  if (pair.tap == EventLoop::Token::kNone) {
    WV_TRY(pair.tap, worker_->loop().Add(tap_->fd(index), EPOLLIN | EPOLLET,
                                         [this, index](uint32_t events) { OnTap(index, events); }));
  }
  return {};
}

void NetDevice::Unwatch(Pair& pair) {
  if (!pair.receiver.running() && !pair.transmitter.running()) {
    worker_->loop().Remove(std::exchange(pair.tap, EventLoop::Token::kNone));
  }
}

void NetDevice::OnTap(uint16_t index, uint32_t events) {
  Pair& pair = pairs_[index];
  if ((events & EPOLLOUT) != 0) {
    (void)worker_->loop().Modify(pair.tap, EPOLLIN | EPOLLET);
    pair.transmitter.OnWritable();
  }
  if ((events & ~uint32_t{EPOLLOUT}) != 0) {
    pair.receiver.OnReadable();
  }
}

// Asking again makes epoll look again, so room that has come meanwhile is not missed.
void NetDevice::OnBlocked(uint16_t index) {
  if (auto asked = worker_->loop().Modify(pairs_[index].tap, EPOLLIN | EPOLLOUT | EPOLLET);
      !asked) {
    WV_WARN_LIMITED("{}: {}", traits_.name, asked.error().message());
  }
}

bool NetDevice::SetPairs(uint16_t pairs) {
  const uint16_t old = shared_.pairs;
  for (uint16_t i = 1; i < max_pairs(); ++i) {
    if (auto done = tap_->SetActive(i, i < pairs); !done) {
      WV_WARN_LIMITED("{}: queue pair {}: {}", traits_.name, i, done.error().message());
      for (uint16_t k = 1; k <= i; ++k) {
        (void)tap_->SetActive(k, k < old);
      }
      return false;
    }
  }
  shared_.pairs = pairs;
  for (uint16_t i = old; i < pairs; ++i) {
    pairs_[i].receiver.OnReadable();
  }
  return true;
}

bool NetDevice::SetOffloads(uint64_t offloads) {
  if (auto done = tap_->SetOffloads(TunOffloads(offloads)); !done) {
    WV_WARN_LIMITED("{}: {}", traits_.name, done.error().message());
    return false;
  }
  shared_.offloads = offloads;
  return true;
}

// Whatever the features make of the queue: the control queue's place may be that of a pair.
void NetDevice::SetQueueEnabled(uint16_t index, bool enabled) {
  if (index >= 2 * max_pairs()) {
    return;
  }
  worker_->Call([&] {
    const auto number = static_cast<uint16_t>(index / 2);
    Pair& pair = pairs_[number];
    if (index % 2 == 0) {
      pair.receiver.SetEnabled(enabled);
      if (auto steered = Steer(number); !steered) {
        WV_WARN_LIMITED("{}: queue pair {}: {}", traits_.name, number, steered.error().message());
      }
    } else {
      pair.transmitter.SetEnabled(enabled);
    }
  });
}

void NetDevice::Reset() {
  worker_->Call([this] {
    (void)SetPairs(1);
    control_.Reset();
    shared_.features = 0;
    shared_.offloads = 0;
    shared_.told_mtu = 0;
    negotiated_ = false;
    interrupt_.reset();
  });
}

}  // namespace wyvern::devices
