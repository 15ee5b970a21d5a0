// Queues of a front-end: what is sent before the first, and for each.
#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "vhost_user/frontend.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kFeaturesOk =
    virtio::kStatusAcknowledge | virtio::kStatusDriver | virtio::kStatusFeaturesOk;
// Both indices 0, both wrap counters 1 (VIRTIO §2.8.1).
constexpr virtio::QueueState kPackedBegin = {0x8000, 0x8000};
constexpr uint64_t kNetMtu = uint64_t{1} << 3;  // VIRTIO §5.1.3

}  // namespace

bool Frontend::served(uint16_t index) const {
  return options_.backend_queues == 0 || index < options_.backend_queues;
}

bool Frontend::AnyRunning() const {
  for (uint16_t i = 0; i < static_cast<uint16_t>(queues_.size()); ++i) {
    if (queues_[i].running && served(i)) {
      return true;
    }
  }
  return false;
}

Result<> Frontend::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                              std::optional<virtio::QueueState> resume) {
  const std::lock_guard lock(control_);
  if (index >= queues_.size() || queues_[index].running) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: queue {}", options_.name, index));
  }
  Queue& queue = queues_[index];
  const bool packed = (features & virtio::kRingPacked) != 0;
  queue.begun = resume.value_or(packed ? kPackedBegin : virtio::QueueState());
  queue.features = features;
  {
    const std::lock_guard guard(mu_);
    interrupt_ = resources.interrupt;
  }
  queue.resources = std::move(resources);
  queue.running = true;
  if (!served(index) || (options_.reconnects && lost())) {
    return {};
  }
  if (auto started = StartOnBackend(index); !started) {
    // A successor starts it.
    if (options_.reconnects && started.error().code() == Code::kUnavailable) {
      return {};
    }
    queue.running = false;
    queue.resources = {};
    return tl::unexpected(
        std::move(started).error().WithContext(fmt::format("{}: queue {}", options_.name, index)));
  }
  return {};
}

// `begun` is where a fresh back-end begins; one that takes over begins at the used index, behind
// which nothing is known to be done (or where its own record says).
Result<> Frontend::StartOnBackend(uint16_t index) {
  Queue& queue = queues_[index];
  virtio::QueueState base = queue.begun;
  const bool packed = (queue.features & virtio::kRingPacked) != 0;
  const bool successor = reconnecting_;
  if (successor && !packed) {
    const auto used =
        virtio::Queue::UsedIndexInRing(*queue.resources.memory, queue.resources.config);
    if (used) {
      base = {*used, *used};
    }
  }
  if (successor) {
    WV_TRY_VOID(RenewKick(queue));
  }
  WV_TRY_VOID(Configure(queue.resources.memory, queue.features));
  WV_TRY_VOID(SendQueue(index, base));
  channel_->set_rings_run(true);
  if (!driver_ok_ && (protocol_features_ & kProtocolStatus) != 0) {
    WV_TRY_VOID(channel_->SetValue(Request::kSetStatus, kFeaturesOk | virtio::kStatusDriverOk));
  }
  driver_ok_ = true;
  if (successor) {
    queue.resources.interrupt->SignalQueue(index);
  }
  return {};
}

// The driver has kicked the last one, which may have taken a signal with it: the successor gets an
// eventfd that is signalled already. What the last one had is left to it. It would steal further
// signals, and a write to it might wait for ever (EventFd::Signal).
Result<> Frontend::RenewKick(Queue& queue) {
  if (queue.resources.renew_kick) {
    WV_TRY(queue.resources.kick, queue.resources.renew_kick());
  }
  return {};
}

Result<> Frontend::Configure(const std::shared_ptr<const mem::GuestMemory>& memory,
                             uint64_t features) {
  touched_ = true;
  WV_TRY_VOID(SendLogBase());
  const uint64_t logging = log_ ? kFeatureLogAll : 0;
  WV_TRY_VOID(SendFeatures((features & backend_features_ & ~options_.kept_features) |
                           virtio::kVersion1 | logging | (backend_features_ & kFeatureProtocol)));
  WV_TRY_VOID(SendMtu(features));
  WV_TRY_VOID(SendInflight());
  if (memory_ != memory) {
    WV_TRY_VOID(SendMemory(*memory));
    memory_ = memory;
  }
  return {};
}

// A back-end without PROTOCOL_F_MTU finds out by itself.
Result<> Frontend::SendMtu(uint64_t features) {
  if (mtu_sent_ || (protocol_features_ & kProtocolMtu) == 0 || (features & kNetMtu) == 0) {
    return {};
  }
  WV_TRY_VOID(channel_->SetValue(Request::kNetSetMtu, uint64_t{options_.mtu}));
  mtu_sent_ = true;
  return {};
}

Result<> Frontend::SendFeatures(uint64_t features) {
  if (sent_features_ == features) {
    return {};
  }
  const bool begins = !sent_features_;
  WV_TRY_VOID(channel_->SetValue(Request::kSetFeatures, features));
  if (begins && (protocol_features_ & kProtocolStatus) != 0) {
    WV_TRY_VOID(channel_->SetValue(Request::kSetStatus, kFeaturesOk));
    WV_TRY(const uint64_t status, channel_->Get<uint64_t>(Request::kGetStatus));
    if ((status & virtio::kStatusFeaturesOk) == 0) {
      return Fail(Code::kFailedPrecondition,
                  fmt::format("the back-end does not take features {:#x}", features));
    }
  }
  sent_features_ = features;
  return {};
}

Result<> Frontend::SendInflight() {
  if (inflight_sent_ || (protocol_features_ & kProtocolInflightShmfd) == 0) {
    return {};
  }
  if (!inflight_) {
    const size_t queues = options_.backend_queues > 0 ? options_.backend_queues : queues_.size();
    const uint16_t size = std::ranges::max(options_.queue_sizes);
    const InflightArea wanted{0, 0, static_cast<uint16_t>(queues), size, 0};
    WV_TRY(Message reply,
           channel_->Ask(Request::kGetInflightFd, std::as_bytes(std::span(&wanted, 1)), {},
                         {kInflightFields, sizeof(InflightArea), 1}));
    const auto area = reply.As<InflightArea>();
    if (area.mmap_size == 0 || reply.fds.size() != 1) {
      return Fail(Code::kFailedPrecondition, "the back-end has no memory for what is in flight");
    }
    inflight_ = Inflight{std::move(reply.fds.front()), area};
  }
  // Always, since only then a back-end must use it.
  const FdRef fd[] = {inflight_->fd};
  WV_TRY_VOID(channel_->SetValue(Request::kSetInflightFd, inflight_->area, fd));
  inflight_sent_ = true;
  return {};
}

Result<> Frontend::SendAddress(uint16_t index) {
  const virtio::QueueResources& resources = queues_[index].resources;
  const virtio::QueueConfig& config = resources.config;
  for (const mem::Gpa area : {config.descriptor_area, config.driver_area, config.device_area}) {
    if (!resources.memory->Contains(area, 1)) {
      return Fail(Code::kInvalidArgument, "the ring lies outside the guest's memory");
    }
  }
  const auto user = [](mem::Gpa area) { return mem::Raw(area) + kUserDistance; };
  const uint32_t flags = log_ ? kVringLog : 0;
  return channel_->SetValue(
      Request::kSetVringAddr,
      VringAddress{index, flags, user(config.descriptor_area), user(config.device_area),
                   user(config.driver_area), mem::Raw(config.device_area)});
}

Result<> Frontend::SendQueue(uint16_t index, const virtio::QueueState& base) {
  const virtio::QueueResources& resources = queues_[index].resources;
  const bool packed = (queues_[index].features & virtio::kRingPacked) != 0;
  const uint32_t num = base.next_available | (packed ? uint32_t{base.next_used} << 16U : 0);
  WV_TRY_VOID(channel_->SetValue(Request::kSetVringNum, VringState{index, resources.config.size}));
  WV_TRY_VOID(channel_->SetValue(Request::kSetVringBase, VringState{index, num}));
  WV_TRY_VOID(SendAddress(index));
  WV_TRY(const FdRef call, CallFd(index));
  const FdRef call_fd[] = {call};
  WV_CHECK(error_.has_value());  // RenewErrors, when the back-end was connected
  const FdRef error_fd[] = {error_->fd()};
  const FdRef kick_fd[] = {resources.kick};
  WV_TRY_VOID(channel_->SetValue(Request::kSetVringCall, uint64_t{index}, call_fd));
  WV_TRY_VOID(channel_->SetValue(Request::kSetVringErr, uint64_t{index}, error_fd));
  if (resources.kick.valid()) {
    WV_TRY_VOID(channel_->SetValue(Request::kSetVringKick, uint64_t{index}, kick_fd));
  } else {
    WV_TRY_VOID(channel_->SetValue(Request::kSetVringKick, uint64_t{index} | kNoFd));
  }
  if ((backend_features_ & kFeatureProtocol) != 0) {
    const uint32_t enabled = queues_[index].enabled ? 1 : 0;
    WV_TRY_VOID(channel_->SetValue(Request::kSetVringEnable, VringState{index, enabled}));
  }
  return {};
}

Result<> Frontend::EnableQueue(uint16_t index, bool enabled) {
  const std::lock_guard lock(control_);
  if (index >= queues_.size() || !served(index)) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: queue {}", options_.name, index));
  }
  if (!enabled && (backend_features_ & kFeatureProtocol) == 0) {
    return Fail(Code::kFailedPrecondition, "the back-end's rings are always enabled");
  }
  Queue& queue = queues_[index];
  // A successor hears it when the queue starts there.
  const bool now = queue.running && !(options_.reconnects && lost());
  if (now && queue.enabled != enabled) {
    auto sent = channel_->SetValue(Request::kSetVringEnable, VringState{index, enabled ? 1U : 0U});
    // Lost by this very request.
    if (!sent && !(options_.reconnects && sent.error().code() == Code::kUnavailable)) {
      return sent;
    }
  }
  queue.enabled = enabled;
  return {};
}

Result<FdRef> Frontend::CallFd(uint16_t index) {
  Queue& queue = queues_[index];
  if (const FdRef direct = queue.resources.interrupt->QueueCallFd(index); direct.valid()) {
    return direct;
  }
  const std::lock_guard lock(mu_);
  queue.interrupt = queue.resources.interrupt;
  if (queue.relay) {
    return queue.relay->fd();  // of the last back-end
  }
  WV_TRY(EventFd relay, EventFd::Create());
  epoll_event event{};
  // One event for each signal, so that it is never read: the back-end shares its file description,
  // and could make a read wait for ever (by clearing O_NONBLOCK) that we do with the lock held.
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = index;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, relay.fd().get(), &event) != 0) {
    return SysError("epoll_ctl(ADD) of a call");
  }
  const FdRef call = relay.fd();
  queue.relay.emplace(std::move(relay));
  return call;
}

std::optional<virtio::QueueState> Frontend::StopQueue(uint16_t index) {
  const std::lock_guard control(control_);
  if (index >= queues_.size() || !queues_[index].running) {
    return std::nullopt;
  }
  Queue& queue = queues_[index];
  queue.running = false;
  if (!served(index)) {
    queue.resources = {};
    return queue.begun;
  }
  const virtio::QueueState state = StopOnBackend(index);
  channel_->set_rings_run(AnyRunning());
  queue.resources = {};
  const std::lock_guard lock(mu_);
  if (queue.relay) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, queue.relay->fd().get(), nullptr);
    queue.interrupt->SignalQueue(index);  // maybe of the last buffers
    queue.relay.reset();
  }
  queue.interrupt.reset();
  return state;
}

virtio::QueueState Frontend::StopOnBackend(uint16_t index) {
  const Queue& queue = queues_[index];
  const bool packed = (queue.features & virtio::kRingPacked) != 0;
  const VringState request{index, 0};
  auto base =
      channel_->Get<VringState>(Request::kGetVringBase, std::as_bytes(std::span(&request, 1)));
  if (base && (base->index != index || (!packed && base->num > UINT16_MAX))) {
    base = channel_->Lose(Request::kGetVringBase, Fault::kUnexpected);
  }
  if (base && (backend_features_ & kFeatureProtocol) != 0) {
    static_cast<void>(channel_->SetValue(Request::kSetVringEnable, request));
  }
  if (packed) {
    // Nothing in a packed ring tells where a lost back-end was.
    return base ? virtio::QueueState{static_cast<uint16_t>(base->num & 0xffffU),
                                     static_cast<uint16_t>(base->num >> 16U)}
                : queue.begun;
  }
  // What the back-end has given back is in the ring. A lost one has no more to say than that.
  const auto used = virtio::Queue::UsedIndexInRing(*queue.resources.memory, queue.resources.config);
  const uint16_t next_used = used ? *used : uint16_t{0};
  return {base ? static_cast<uint16_t>(base->num) : next_used, next_used};
}

}  // namespace wyvern::vhost_user
