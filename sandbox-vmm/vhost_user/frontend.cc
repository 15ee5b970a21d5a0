#include "vhost_user/frontend.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "base/unix_socket.h"
#include "virtio/feature_bits.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kAlwaysWanted = kProtocolMq | kProtocolLogShmfd | kProtocolReplyAck |
                                   kProtocolResetDevice | kProtocolConfigureMemSlots |
                                   kProtocolStatus | kProtocolDeviceState | kProtocolRarp;

uint32_t ConfigLength(const FrontendOptions& options) {
  const auto own = static_cast<uint32_t>(options.config_offset + options.config.size());
  return std::max(options.config.empty() ? 0 : own, options.backend_config);
}

}  // namespace

Frontend::Frontend(UniqueFd socket, FrontendOptions options, UniqueFd epoll)
    : options_(std::move(options)),
      epoll_(std::move(epoll)),
      mappings_(options_.window),
      channel_(std::make_unique<FrontendChannel>(std::move(socket), options_.timeout,
                                                 options_.drain_timeout)) {
  traits_.device_id = options_.device_id;
  traits_.queue_sizes = options_.queue_sizes;
  traits_.config_length = ConfigLength(options_);
  traits_.name = options_.name;
  queues_ = std::vector<Queue>(options_.queue_sizes.size());
  config_.resize(traits_.config_length);
}

Result<std::unique_ptr<Frontend>> Frontend::Create(UniqueFd socket, FrontendOptions options) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return SysError("epoll_create1");
  }
  std::unique_ptr<Frontend> device(
      new Frontend(std::move(socket), std::move(options), std::move(epoll)));
  WV_TRY_VOID(device->RenewErrors());
  WV_TRY_VOID_CONTEXT(device->Negotiate(), "vhost-user back-end");
  device->traits_.features = device->OfferedFeatures();
  device->traits_.shared_memory = device->shared_memory_;
  device->mappings_.SetRegions(device->shared_memory_);
  WV_TRY_VOID(device->Attach());
  Frontend* self = device.get();
  WV_TRY(device->watcher_,
         WorkerThread::Start("vhost-user", [self](const EventFd& stop) { self->Watch(stop); }));
  return device;
}

Frontend::~Frontend() {
  if (watcher_ != nullptr) {
    watcher_->Join();
  }
  mappings_.UnmapAll();
}

void Frontend::set_lost_callback(std::function<void(std::string)> callback) {
  const std::lock_guard lock(mu_);
  on_lost_ = std::move(callback);
}

bool Frontend::lost() const {
  const std::lock_guard lock(mu_);
  return lost_;
}

uint64_t Frontend::WantedProtocol() const {
  uint64_t wanted = kAlwaysWanted;
  wanted |= options_.backend_config > 0 ? kProtocolConfig | kProtocolBackendReq : 0;
  wanted |= options_.track_inflight ? kProtocolInflightShmfd : 0;
  wanted |= options_.mtu > 0 ? kProtocolMtu : 0;
  wanted |= options_.window != nullptr
                ? kProtocolShmem | kProtocolBackendReq | kProtocolBackendSendFd
                : 0;
  return wanted;
}

uint64_t Frontend::OfferedFeatures() const {
  const uint64_t theirs = backend_features_ & ~(kFeatureProtocol | kFeatureLogAll);
  // Nothing in a packed ring tells a successor where the lost one was.
  const uint64_t hidden = options_.reconnects ? virtio::kRingPacked : 0;
  return (theirs & options_.features & ~hidden) | options_.own_features;
}

Result<> Frontend::Negotiate() {
  WV_TRY(backend_features_, channel_->Get<uint64_t>(Request::kGetFeatures));
  if ((backend_features_ & virtio::kVersion1) == 0) {
    return Fail(Code::kFailedPrecondition, "offers no VIRTIO 1 device");
  }
  protocol_features_ = 0;
  if ((backend_features_ & kFeatureProtocol) != 0) {
    WV_TRY(const uint64_t offered, channel_->Get<uint64_t>(Request::kGetProtocolFeatures));
    protocol_features_ = offered & WantedProtocol();
    // Shared memory without the way to ask for it is none.
    if ((protocol_features_ & kProtocolBackendReq) == 0 ||
        (protocol_features_ & kProtocolBackendSendFd) == 0) {
      protocol_features_ &= ~kProtocolShmem;
    }
    WV_TRY_VOID(channel_->SetValue(Request::kSetProtocolFeatures, protocol_features_));
    channel_->set_protocol_features(protocol_features_);
  }
  WV_TRY_VOID(CheckQueues());
  WV_TRY_VOID(channel_->Set(Request::kSetOwner, {}));
  our_requests_.Reset();
  if ((protocol_features_ & kProtocolBackendReq) != 0) {
    WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
    const FdRef theirs[] = {pair.second};
    WV_TRY_VOID(channel_->Set(Request::kSetBackendReqFd, {}, theirs));
    our_requests_ = std::move(pair.first);
  }
  WV_TRY_VOID(FetchSharedMemory());
  return FetchConfig();
}

Result<> Frontend::CheckQueues() {
  const uint64_t unit = QueueUnit(options_.device_id);
  const size_t needed = options_.backend_queues > 0 ? options_.backend_queues : queues_.size();
  uint64_t there = needed;
  if ((protocol_features_ & kProtocolMq) != 0) {
    WV_TRY(const uint64_t count, channel_->Get<uint64_t>(Request::kGetQueueNum));
    there = std::min(count, UINT16_MAX / unit) * unit;
  } else if (unit > 1) {
    // Without MQ a device has as many queues as it needs, which a back-end cannot tell; of pairs it is
    // one.
    there = unit;
  }
  if (there < needed) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("serves {} queues where {} are needed", there, needed));
  }
  return {};
}

Result<> Frontend::FetchSharedMemory() {
  shared_memory_.clear();
  if ((protocol_features_ & kProtocolShmem) == 0) {
    return {};
  }
  WV_TRY(const ShmemConfig config, channel_->Get<ShmemConfig>(Request::kGetShmemConfig));
  constexpr uint64_t kPage = 4096;
  for (size_t id = 0; id < kShmemRegions; ++id) {
    if (config.sizes[id] % kPage != 0) {
      return Fail(Code::kFailedPrecondition, "has shared memory of no whole pages");
    }
    if (config.sizes[id] != 0) {
      shared_memory_.push_back({static_cast<uint8_t>(id), config.sizes[id]});
    }
  }
  return {};
}

// The back-end's part, with ours over it.
Result<> Frontend::FetchConfig() {
  std::vector<std::byte> config(traits_.config_length);
  if (options_.backend_config > 0) {
    if ((protocol_features_ & kProtocolConfig) == 0) {
      return Fail(Code::kFailedPrecondition, "has no configuration to show");
    }
    const ConfigRange range{0, options_.backend_config, 0};
    std::vector<std::byte> message(sizeof(range) + range.size);
    std::memcpy(message.data(), &range, sizeof(range));
    WV_TRY(const Message reply,
           channel_->Ask(Request::kGetConfig, message, {}, {0, message.size(), 0}));
    if (reply.payload.size() != message.size()) {
      return Fail(Code::kFailedPrecondition, "refuses to show its configuration");
    }
    std::copy(reply.payload.begin() + sizeof(range), reply.payload.end(), config.begin());
  }
  if (!options_.config.empty()) {
    std::ranges::copy(options_.config, config.begin() + options_.config_offset);
  }
  const std::lock_guard lock(mu_);
  config_ = std::move(config);
  return {};
}

void Frontend::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  if (config_stale_.exchange(false)) {
    const std::lock_guard lock(control_);
    if (auto fetched = FetchConfig(); !fetched) {
      WV_WARN_LIMITED("{}: {}", options_.name, fetched.error().message());
    }
  }
  std::ranges::fill(out, std::byte{0});
  const std::lock_guard lock(mu_);
  if (offset < config_.size()) {
    const size_t bytes = std::min(out.size(), config_.size() - offset);
    std::memcpy(out.data(), config_.data() + offset, bytes);
  }
}

void Frontend::WriteConfig(uint32_t offset, std::span<const std::byte> in) {
  if (options_.backend_config == 0 || in.size() > options_.backend_config ||
      offset > options_.backend_config - in.size()) {
    return;
  }
  const ConfigRange range{offset, static_cast<uint32_t>(in.size()), 0};
  std::vector<std::byte> message(sizeof(range) + in.size());
  std::memcpy(message.data(), &range, sizeof(range));
  std::ranges::copy(in, message.begin() + sizeof(range));
  {
    const std::lock_guard lock(control_);
    if (auto sent = channel_->Set(Request::kSetConfig, message); !sent) {
      WV_WARN_LIMITED("{}: {}", options_.name, sent.error().message());
    }
  }
  // Whatever the back-end has made of it.
  config_stale_ = true;
}

// Every queue is stopped. The driver negotiates anew.
void Frontend::Reset() {
  const std::lock_guard lock(control_);
  if (touched_ && !lost()) {
    if ((protocol_features_ & kProtocolResetDevice) != 0) {
      static_cast<void>(channel_->Set(Request::kResetDevice, {}));
    }
    if ((protocol_features_ & kProtocolStatus) != 0) {
      static_cast<void>(channel_->SetValue(Request::kSetStatus, uint64_t{0}));
    }
    // Some take the memory table for a part of what is reset.
    memory_.reset();
    slots_.clear();
  }
  if (touched_) {
    if (const auto renewed = RenewErrors(); !renewed) {
      WV_WARN_LIMITED("{}: {}", options_.name, renewed.error().message());
    }
  }
  touched_ = false;
  driver_ok_ = false;
  sent_features_.reset();
  mtu_sent_ = false;
  // The record is of rings that are no more.
  inflight_.reset();
  inflight_sent_ = false;
  mappings_.UnmapAll();
}

// What the last back-end had, its successor has not.
void Frontend::ForgetSession() {
  sent_features_.reset();
  memory_.reset();
  slots_.clear();
  max_slots_.reset();
  touched_ = false;
  driver_ok_ = false;
  mtu_sent_ = false;
  inflight_sent_ = false;
  log_sent_ = false;
}

Result<> Frontend::Reconnect(UniqueFd socket) {
  const std::lock_guard lock(control_);
  if (!lost()) {
    return Fail(Code::kFailedPrecondition, "the vhost-user back-end is not lost");
  }
  ForgetSession();
  mappings_.UnmapAll();
  WV_TRY_VOID(RenewErrors());
  channel_ = std::make_unique<FrontendChannel>(std::move(socket), options_.timeout,
                                               options_.drain_timeout);
  WV_TRY_VOID_CONTEXT(Negotiate(), "vhost-user back-end");
  // The driver has seen what the first one offered.
  if (const uint64_t lacks = traits_.features & ~OfferedFeatures(); lacks != 0) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("the new back-end lacks features {:#x}", lacks));
  }
  const auto same = [](const virtio::SharedMemoryRegion& a, const virtio::SharedMemoryRegion& b) {
    return a.id == b.id && a.length == b.length;
  };
  if (!std::ranges::equal(traits_.shared_memory, shared_memory_, same)) {
    return Fail(Code::kFailedPrecondition, "the new back-end has other shared memory");
  }
  WV_TRY_VOID(Attach());
  reconnecting_ = true;
  auto restarted = RestartQueues();
  reconnecting_ = false;
  if (!restarted) {
    Detach();
    return restarted;
  }
  reconnects_.fetch_add(1, std::memory_order_relaxed);
  return {};
}

Result<> Frontend::RestartQueues() {
  for (uint16_t i = 0; i < static_cast<uint16_t>(queues_.size()); ++i) {
    if (queues_[i].running && served(i)) {
      WV_TRY_VOID_CONTEXT(StartOnBackend(i), fmt::format("{}: queue {}", options_.name, i));
    }
  }
  return {};
}

std::vector<virtio::CounterValue> Frontend::counters() const {
  return {{"backend_losses", losses_.load(std::memory_order_relaxed)},
          {"reconnects", reconnects_.load(std::memory_order_relaxed)},
          {"backend_requests", backend_requests_.load(std::memory_order_relaxed)},
          {"backend_requests_refused", backend_requests_refused_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::vhost_user
