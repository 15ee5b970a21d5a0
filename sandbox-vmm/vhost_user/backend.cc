#include "vhost_user/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "virtio/queue.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kTransportFeatures = kFeatureProtocol | kFeatureLogAll;
constexpr uint64_t kMinMtu = 68;  // VIRTIO §5.1.4.1
constexpr uint64_t kMaxMtu = 65535;
constexpr uint32_t kConfigMigration = 1;

}  // namespace

Backend::Backend(UniqueFd socket, std::unique_ptr<virtio::VirtioDevice> device,
                 BackendOptions options)
    : connection_(std::move(socket)),
      options_(std::move(options)),
      requests_(std::make_shared<BackendRequests>(options_.timeout)),
      interrupt_(std::make_shared<CallInterrupt>(
          device->traits().queue_sizes.size(),
          [requests = requests_] {
            // A front-end without CONFIG cannot be told.
            if (auto told = requests->ConfigChanged();
                !told && told.error().code() != Code::kFailedPrecondition) {
              WV_WARN_LIMITED("vhost-user: {}", told.error().message());
            }
          })),
      core_(std::move(device), nullptr, interrupt_,
            [this](uint16_t index) { return FdRef(rings_[index].kick); }),
      rings_(core_.queue_count() - (core_.traits().control_features != 0 ? 1U : 0U)) {
  core_.set_broken_callback([interrupt = interrupt_] { interrupt->SignalErrors(); });
}

Backend::~Backend() {
  for (uint16_t i = 0; i < ring_count(); ++i) {
    Stop(i);
  }
}

uint64_t Backend::features_offered() const {
  // What is in flight is known by heads, and by what is in the used ring at once.
  const uint64_t untracked = options_.track_inflight ? virtio::kRingPacked | virtio::kInOrder : 0;
  const uint64_t hidden = untracked | core_.traits().control_features;
  return (core_.device_features() & ~hidden) | kTransportFeatures;
}

uint64_t Backend::protocol_features_offered() const {
  const bool shares = !core_.traits().shared_memory.empty();
  uint64_t offered = kProtocolMq | kProtocolLogShmfd | kProtocolReplyAck | kProtocolResetDevice |
                     kProtocolConfigureMemSlots;
  offered |= options_.offer_config ? kProtocolConfig : 0;
  offered |= options_.offer_config || shares ? kProtocolBackendReq : 0;
  offered |= shares ? kProtocolShmem | kProtocolBackendSendFd : 0;
  offered |= options_.track_inflight ? kProtocolInflightShmfd : 0;
  offered |= options_.offer_status ? kProtocolStatus : 0;
  offered |= options_.state != nullptr ? kProtocolDeviceState : 0;
  offered |= options_.set_mtu ? kProtocolMtu : 0;
  offered |= options_.send_rarp ? kProtocolRarp : 0;
  return offered;
}

Backend::Handler Backend::FindHandler(Request request) {
  static constexpr std::pair<Request, Handler> kHandlers[] = {
      {Request::kGetFeatures, &Backend::GetFeatures},
      {Request::kSetFeatures, &Backend::SetFeatures},
      {Request::kSetOwner, &Backend::SetOwner},
      {Request::kResetOwner, &Backend::ResetOwner},
      {Request::kSetMemTable, &Backend::SetMemTable},
      {Request::kSetLogBase, &Backend::SetLogBase},
      {Request::kSetLogFd, &Backend::SetLogFd},
      {Request::kSetVringNum, &Backend::SetVringNum},
      {Request::kSetVringAddr, &Backend::SetVringAddr},
      {Request::kSetVringBase, &Backend::SetVringBase},
      {Request::kGetVringBase, &Backend::GetVringBase},
      {Request::kSetVringKick, &Backend::SetVringKick},
      {Request::kSetVringCall, &Backend::SetVringCall},
      {Request::kSetVringErr, &Backend::SetVringErr},
      {Request::kGetProtocolFeatures, &Backend::GetProtocolFeatures},
      {Request::kSetProtocolFeatures, &Backend::SetProtocolFeatures},
      {Request::kGetQueueNum, &Backend::GetQueueNum},
      {Request::kSetVringEnable, &Backend::SetVringEnable},
      {Request::kSendRarp, &Backend::SendRarp},
      {Request::kNetSetMtu, &Backend::NetSetMtu},
      {Request::kSetBackendReqFd, &Backend::SetBackendReqFd},
      {Request::kGetConfig, &Backend::GetConfig},
      {Request::kSetConfig, &Backend::SetConfig},
      {Request::kGetInflightFd, &Backend::GetInflightFd},
      {Request::kSetInflightFd, &Backend::SetInflightFd},
      {Request::kResetDevice, &Backend::ResetDevice},
      {Request::kGetMaxMemSlots, &Backend::GetMaxMemSlots},
      {Request::kAddMemReg, &Backend::AddMemReg},
      {Request::kRemMemReg, &Backend::RemMemReg},
      {Request::kSetStatus, &Backend::SetStatus},
      {Request::kGetStatus, &Backend::GetStatus},
      {Request::kSetDeviceStateFd, &Backend::SetDeviceStateFd},
      {Request::kCheckDeviceState, &Backend::CheckDeviceState},
      {Request::kGetShmemConfig, &Backend::GetShmemConfig},
  };
  const auto* found = std::ranges::find(kHandlers, request, &std::pair<Request, Handler>::first);
  return found == std::end(kHandlers) ? nullptr : found->second;
}

Result<> Backend::Act(const RequestRule& rule, Call& call) {
  const Handler handler = FindHandler(static_cast<Request>(rule.request));
  if (handler == nullptr) {
    return Fail(Code::kUnimplemented, "not offered");
  }
  if ((protocol_features_ & rule.needs) != rule.needs) {
    return Fail(Code::kFailedPrecondition, "was not negotiated");
  }
  return (this->*handler)(call);
}

Wire<> Backend::Serve() {
  const auto deadline = Connection::Clock::now() + options_.timeout;
  WV_TRY(Message message, connection_.Receive(deadline));
  const uint32_t id = message.header.request;
  const RequestRule* rule = FindRule(RequestRules(), id);
  if (rule != nullptr &&
      (message.payload.size() < rule->min_size || message.payload.size() > rule->max_size)) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  if (rule != nullptr &&
      (message.fds.size() < rule->min_fds || message.fds.size() > rule->max_fds)) {
    return tl::unexpected(Fault::kFdCount);
  }
  Call call{.message = message};
  call.fds = std::move(message.fds);
  const Result<> done = rule == nullptr
                            ? Result<>(Fail(Code::kUnimplemented, "not a request of ours"))
                            : Act(*rule, call);
  if (!done) {
    ++refused_;
    WV_WARN_LIMITED("vhost-user: {} ({}) refused: {}", RequestName(id), id, done.error().message());
  }
  const bool ack =
      (message.header.flags & kFlagNeedReply) != 0 && (protocol_features_ & kProtocolReplyAck) != 0;
  if (rule != nullptr && rule->has_reply) {
    // Where a reply has no words for a failure, a front-end that asks in vain is at its end: a
    // migration without its log would lose writes.
    if (!done && !call.answered) {
      return tl::unexpected(Fault::kUnexpected);
    }
  } else if (ack) {
    call.Answer(uint64_t{done ? 0U : 1U});
  } else {
    return {};
  }
  const FdRef fds[] = {call.reply_fd};
  return connection_.Send(id, kFlagReply, call.reply,
                          std::span(fds).first(call.reply_fd.valid() ? 1 : 0),
                          Connection::Clock::now() + options_.timeout);
}

Result<> Backend::GetFeatures(Call& call) {
  call.Answer(features_offered());
  return {};
}

Result<> Backend::SetFeatures(Call& call) {
  const auto features = call.message.As<uint64_t>();
  if ((features & ~features_offered()) != 0) {
    return Fail(Code::kInvalidArgument, "virtio feature bits that were not offered");
  }
  const uint64_t device = features & ~kTransportFeatures;
  if (!features_ || device != (*features_ & ~kTransportFeatures)) {
    WV_TRY_VOID(core_.SetFeatures(device));
  }
  if (((features ^ features_.value_or(0)) & kFeatureLogAll) != 0) {
    WV_TRY_VOID(WhileStopped([&] {
      features_ = features;
      return Result<>();
    }));
  }
  features_ = features;
  if ((features & kFeatureProtocol) == 0) {
    // Without SET_VRING_ENABLE to come, rings are enabled at once.
    for (uint16_t i = 0; i < ring_count(); ++i) {
      rings_[i].enabled = true;
      WV_TRY_VOID(StartIfReady(i));
    }
  }
  return {};
}

Result<> Backend::SetOwner(Call& /*call*/) {
  return {};
}

Result<> Backend::GetProtocolFeatures(Call& call) {
  call.Answer(protocol_features_offered());
  return {};
}

Result<> Backend::SetProtocolFeatures(Call& call) {
  const auto features = call.message.As<uint64_t>();
  if ((features & ~protocol_features_offered()) != 0) {
    return Fail(Code::kInvalidArgument, "protocol features that were not offered");
  }
  protocol_features_ = features;
  requests_->SetProtocolFeatures(features);
  return {};
}

Result<> Backend::GetQueueNum(Call& call) {
  call.Answer(rings_.size() / QueueUnit(core_.traits().device_id));
  return {};
}

Result<> Backend::SetBackendReqFd(Call& call) {
  requests_->SetChannel(std::move(call.fds.front()));
  return {};
}

Result<> Backend::GetConfig(Call& call) {
  call.answered = true;  // an empty payload is the failure
  const auto range = call.message.As<ConfigRange>();
  if (range.size > kMaxConfigBytes || range.offset > kMaxConfigBytes - range.size) {
    return Fail(Code::kInvalidArgument, "a part of the configuration that does not exist");
  }
  call.reply.resize(sizeof(range) + range.size);
  std::memcpy(call.reply.data(), &range, sizeof(range));
  core_.ReadConfig(range.offset, std::span(call.reply).subspan(sizeof(range)));
  return {};
}

Result<> Backend::SetConfig(Call& call) {
  const auto range = call.message.As<ConfigRange>();
  if (range.size > kMaxConfigBytes || range.offset > kMaxConfigBytes - range.size ||
      range.flags > kConfigMigration || call.message.payload.size() - sizeof(range) != range.size) {
    return Fail(Code::kInvalidArgument, "a part of the configuration that does not exist");
  }
  // What may be written at all is the device's to say, in a migration, too.
  core_.WriteConfig(range.offset, std::span(call.message.payload).subspan(sizeof(range)));
  return {};
}

Result<> Backend::GetShmemConfig(Call& call) {
  ShmemConfig config;
  for (const virtio::SharedMemoryRegion& region : core_.traits().shared_memory) {
    config.count += region.length > 0 && config.sizes[region.id] == 0 ? 1 : 0;
    config.sizes[region.id] = region.length;
  }
  call.Answer(config);
  return {};
}

Result<> Backend::NetSetMtu(Call& call) {
  const auto mtu = call.message.As<uint64_t>();
  if (mtu < kMinMtu || mtu > kMaxMtu) {
    return Fail(Code::kInvalidArgument, fmt::format("an MTU of {}", mtu));
  }
  return options_.set_mtu(static_cast<uint16_t>(mtu));
}

Result<> Backend::SendRarp(Call& call) {
  return options_.send_rarp(call.message.As<std::array<uint8_t, 6>>());
}

}  // namespace wyvern::vhost_user
