#include "vhost_user/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/log.h"
#include "virtio/queue.h"

namespace wyvern::vhost_user {

// Call and error descriptors; the front-end replaces them at any time.
class Backend::CallInterrupt final : public virtio::Interrupt {
 public:
  explicit CallInterrupt(size_t rings) : calls_(rings), errors_(rings) {}

  void SignalQueue(uint16_t index) override {
    const std::lock_guard lock(mu_);
    Signal(calls_, index);
  }

  // Needs a channel of the back-end's own, which is not offered.
  void SignalConfig() override {}

  FdRef QueueCallFd(uint16_t index) override {
    const std::lock_guard lock(mu_);
    if (index >= calls_.size()) {
      return FdRef(-1);
    }
    const std::optional<EventFd>& call = calls_[index];
    return call ? call->fd() : FdRef(-1);
  }

  void SignalErrors() {
    const std::lock_guard lock(mu_);
    for (size_t i = 0; i < errors_.size(); ++i) {
      Signal(errors_, i);
    }
  }

  void Set(Request request, size_t index, UniqueFd fd) {
    const std::lock_guard lock(mu_);
    auto& slot = request == Request::kSetVringCall ? calls_[index] : errors_[index];
    slot.reset();
    if (fd.valid()) {
      slot.emplace(std::move(fd));
    }
  }

 private:
  static void Signal(const std::vector<std::optional<EventFd>>& fds, size_t index) {
    if (index >= fds.size()) {
      return;
    }
    if (const std::optional<EventFd>& fd = fds[index]; fd.has_value()) {
      fd->Signal();
    }
  }

  std::mutex mu_;
  std::vector<std::optional<EventFd>> calls_;
  std::vector<std::optional<EventFd>> errors_;
};

Backend::Backend(UniqueFd socket, std::unique_ptr<virtio::VirtioDevice> device,
                 BackendOptions options)
    : connection_(std::move(socket)),
      options_(options),
      interrupt_(std::make_shared<CallInterrupt>(device->traits().queue_sizes.size())),
      core_(std::move(device), nullptr, interrupt_,
            [this](uint16_t index) { return FdRef(rings_[index].kick); }),
      rings_(core_.queue_count()) {
  core_.set_broken_callback([interrupt = interrupt_] { interrupt->SignalErrors(); });
}

Backend::~Backend() {
  StopAll();
}

uint64_t Backend::protocol_features_offered() const {
  return kProtocolMq | kProtocolReplyAck | kProtocolResetDevice | kProtocolConfigureMemSlots |
         (options_.offer_config ? kProtocolConfig : 0);
}

Wire<> Backend::Serve() {
  const auto deadline = Connection::Clock::now() + options_.timeout;
  WV_TRY(Message message, connection_.Receive(deadline));
  const uint32_t id = message.header.request;
  const RequestRule* rule = FindRule(id);
  if (rule != nullptr &&
      (message.payload.size() < rule->min_size || message.payload.size() > rule->max_size)) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  if (rule != nullptr &&
      (message.fds.size() < rule->min_fds || message.fds.size() > rule->max_fds)) {
    return tl::unexpected(Fault::kFdCount);
  }
  std::vector<UniqueFd> fds = std::move(message.fds);
  std::vector<std::byte> reply;
  const Result<> done = rule == nullptr
                            ? Result<>(Fail(Code::kUnimplemented, "not a request of ours"))
                            : Act(message, fds, &reply);
  if (!done) {
    ++refused_;
    WV_WARN_LIMITED("vhost-user: {} ({}) refused: {}", RequestName(id), id, done.error().message());
  }
  const bool ack =
      (message.header.flags & kFlagNeedReply) != 0 && (protocol_features_ & kProtocolReplyAck) != 0;
  if (rule != nullptr && rule->has_reply) {
    // GET_CONFIG says a failure by an empty payload; a front-end that asks for other things in vain
    // is at its end.
    if (!done && rule->request != Request::kGetConfig) {
      return tl::unexpected(Fault::kUnexpected);
    }
  } else if (ack) {
    const uint64_t code = done ? 0 : 1;
    const auto bytes = std::as_bytes(std::span(&code, 1));
    reply.assign(bytes.begin(), bytes.end());
  } else {
    return {};
  }
  return connection_.Send(static_cast<Request>(id), kFlagReply, reply, {}, deadline);
}

namespace {

template <typename T>
void Answer(std::vector<std::byte>* reply, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  reply->assign(bytes.begin(), bytes.end());
}

}  // namespace

Result<> Backend::Act(const Message& message, std::vector<UniqueFd>& fds,
                      std::vector<std::byte>* reply) {
  const auto request = static_cast<Request>(message.header.request);
  switch (request) {
    case Request::kGetFeatures:
      Answer(reply, core_.device_features() | kFeatureProtocol);
      return {};
    case Request::kSetFeatures:
      return SetFeatures(message.As<uint64_t>());
    case Request::kSetOwner:
      return {};
    case Request::kResetOwner:
      StopAll();
      return {};
    case Request::kGetProtocolFeatures:
      Answer(reply, protocol_features_offered());
      return {};
    case Request::kSetProtocolFeatures:
      if ((message.As<uint64_t>() & ~protocol_features_offered()) != 0) {
        return Fail(Code::kInvalidArgument, "protocol features that were not offered");
      }
      protocol_features_ = message.As<uint64_t>();
      return {};
    case Request::kGetQueueNum:
      Answer(reply, uint64_t{rings_.size()});
      return {};
    case Request::kSetMemTable:
      return SetMemTable(message, fds);
    case Request::kGetMaxMemSlots:
      Answer(reply, uint64_t{SharedMemory::kMaxSlots});
      return {};
    case Request::kAddMemReg:
      return ChangeMemory(
          [&] { return memory_.Add(message.As<SingleRegion>().region, std::move(fds.front())); });
    case Request::kRemMemReg:
      return ChangeMemory([&] { return memory_.Remove(message.As<SingleRegion>().region); });
    case Request::kSetVringNum:
      return SetVringNum(message.As<VringState>());
    case Request::kSetVringAddr:
      return SetVringAddr(message.As<VringAddress>());
    case Request::kSetVringBase:
      return SetVringBase(message.As<VringState>());
    case Request::kGetVringBase: {
      WV_TRY(const VringState state, GetVringBase(message.As<VringState>()));
      Answer(reply, state);
      return {};
    }
    case Request::kSetVringKick:
    case Request::kSetVringCall:
    case Request::kSetVringErr:
      return SetVringFd(request, message.As<uint64_t>(), fds);
    case Request::kSetVringEnable:
      return SetVringEnable(message.As<VringState>());
    case Request::kGetConfig:
      return GetConfig(message, reply);
    case Request::kSetConfig:
      return SetConfig(message);
    case Request::kResetDevice:
      StopAll();
      core_.Reset();
      return {};
    case Request::kSetLogBase:
    case Request::kSetLogFd:
    case Request::kSetBackendReqFd:
      break;
  }
  return Fail(Code::kUnimplemented, "not offered");
}

Result<> Backend::SetFeatures(uint64_t features) {
  const uint64_t virtio_features = features & ~kFeatureProtocol;
  if (features == features_) {
    return {};
  }
  WV_TRY_VOID(core_.SetFeatures(virtio_features));
  features_ = features;
  if ((features & kFeatureProtocol) == 0) {
    // Without SET_VRING_ENABLE to come, rings are enabled from the start.
    for (Ring& ring : rings_) {
      ring.enabled = true;
    }
  }
  return {};
}

Result<> Backend::SetMemTable(const Message& message, std::vector<UniqueFd>& fds) {
  const auto table = message.As<MemoryTable>();
  if (table.count == 0 || table.count > kMaxTableRegions || table.count != fds.size() ||
      message.payload.size() < 8 + table.count * sizeof(MemoryRegion)) {
    return Fail(Code::kInvalidArgument,
                fmt::format("a memory table of {} regions, {} bytes and {} "
                            "descriptors",
                            table.count, message.payload.size(), fds.size()));
  }
  return ChangeMemory(
      [&] { return memory_.Replace(std::span(table.regions).first(table.count), std::move(fds)); });
}

// Rings must not run while the memory under them is exchanged; they go on in the new one.
template <typename Change>
Result<> Backend::ChangeMemory(Change change) {
  std::vector<uint16_t> running;
  for (uint16_t i = 0; i < ring_count(); ++i) {
    if (core_.running(i)) {
      running.push_back(i);
      Stop(i);
    }
  }
  Result<> changed = change();
  core_.SetMemory(memory_.memory());
  for (const uint16_t index : running) {
    WV_TRY_VOID(StartIfReady(index));
  }
  return changed;
}

Result<Backend::Ring*> Backend::FindRing(uint64_t index) {
  if (index >= rings_.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("no ring {}", index));
  }
  return &rings_[index];
}

Result<> Backend::SetVringNum(const VringState& state) {
  WV_TRY(Ring * ring, FindRing(state.index));
  if (core_.running(static_cast<uint16_t>(state.index))) {
    return Fail(Code::kFailedPrecondition, "the ring is running");
  }
  if (state.num == 0 || state.num > core_.traits().queue_sizes[state.index]) {
    return Fail(Code::kInvalidArgument, fmt::format("a ring of {} descriptors", state.num));
  }
  ring->size = static_cast<uint16_t>(state.num);
  return {};
}

Result<> Backend::SetVringAddr(const VringAddress& address) {
  WV_TRY(Ring * ring, FindRing(address.index));
  if (core_.running(static_cast<uint16_t>(address.index))) {
    return Fail(Code::kFailedPrecondition, "the ring is running");
  }
  if (address.flags != 0) {
    return Fail(Code::kInvalidArgument, "logging was not offered");
  }
  ring->address = address;
  ring->has_address = true;
  if (memory_.memory() != nullptr) {
    WV_TRY_VOID(Translate(*ring));
  }
  return StartIfReady(static_cast<uint16_t>(address.index));
}

Result<virtio::QueueConfig> Backend::Translate(const Ring& ring) const {
  const auto descriptor = memory_.ToGpa(ring.address.descriptor);
  const auto available = memory_.ToGpa(ring.address.available);
  const auto used = memory_.ToGpa(ring.address.used);
  if (!descriptor || !available || !used) {
    return Fail(Code::kInvalidArgument,
                fmt::format("ring {} lies outside the memory table", ring.address.index));
  }
  return virtio::QueueConfig{ring.size, *descriptor, *available, *used};
}

Result<> Backend::SetVringBase(const VringState& state) {
  WV_TRY(Ring * ring, FindRing(state.index));
  if (core_.running(static_cast<uint16_t>(state.index))) {
    return Fail(Code::kFailedPrecondition, "the ring is running");
  }
  if (state.num > UINT16_MAX) {
    return Fail(Code::kInvalidArgument, "an index of more than 16 bits");
  }
  ring->base = static_cast<uint16_t>(state.num);
  ring->has_state = false;
  return {};
}

Result<VringState> Backend::GetVringBase(const VringState& state) {
  WV_TRY(Ring * ring, FindRing(state.index));
  const auto index = static_cast<uint16_t>(state.index);
  Stop(index);
  ring->started = false;
  ring->kick.Reset();
  const uint16_t base = ring->has_state ? ring->state.next_available : ring->base;
  ring->base = base;
  ring->has_state = false;
  return VringState{index, base};
}

Result<> Backend::SetVringFd(Request request, uint64_t value, std::vector<UniqueFd>& fds) {
  const uint64_t index = value & kVringIndexMask;
  WV_TRY(Ring * ring, FindRing(index));
  const bool none = (value & kVringNoFd) != 0;
  if (none != fds.empty() || (value & ~(kVringIndexMask | kVringNoFd)) != 0) {
    return Fail(Code::kInvalidArgument, "a descriptor where none was promised, or the reverse");
  }
  UniqueFd fd = none ? UniqueFd() : std::move(fds.front());
  if (request != Request::kSetVringKick) {
    interrupt_->Set(request, index, std::move(fd));
    return {};
  }
  if (none) {
    return Fail(Code::kUnimplemented, "rings without a kick would have to be polled");
  }
  Stop(static_cast<uint16_t>(index));
  ring->kick = std::move(fd);
  ring->started = true;
  return StartIfReady(static_cast<uint16_t>(index));
}

Result<> Backend::SetVringEnable(const VringState& state) {
  WV_TRY(Ring * ring, FindRing(state.index));
  if (state.num > 1) {
    return Fail(Code::kInvalidArgument, "a ring is enabled by 1 or disabled by 0");
  }
  ring->enabled = state.num == 1;
  if (!ring->enabled) {
    Stop(static_cast<uint16_t>(state.index));
    return {};
  }
  return StartIfReady(static_cast<uint16_t>(state.index));
}

Result<> Backend::StartIfReady(uint16_t index) {
  Ring& ring = rings_[index];
  if (!ring.started || !ring.enabled || !ring.has_address || ring.size == 0 ||
      memory_.memory() == nullptr || core_.running(index)) {
    return {};
  }
  WV_TRY(const virtio::QueueConfig config, Translate(ring));
  WV_TRY_VOID(core_.ConfigureQueue(index, config));
  virtio::QueueState state = ring.state;
  if (!ring.has_state) {
    // The front-end tells the available index only; the used one is in the ring.
    const auto used = virtio::Queue::UsedIndexInRing(*memory_.memory(), config);
    if (!used) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("ring {}: {}", index, virtio::ChainFaultName(used.error())));
    }
    state = {ring.base, *used};
  }
  return core_.StartQueue(index, state);
}

void Backend::Stop(uint16_t index) {
  if (const auto state = core_.StopQueue(index)) {
    rings_[index].state = *state;
    rings_[index].has_state = true;
  }
}

void Backend::StopAll() {
  for (uint16_t i = 0; i < ring_count(); ++i) {
    Stop(i);
    rings_[i].started = false;
    rings_[i].kick.Reset();
  }
}

Result<> Backend::GetConfig(const Message& message, std::vector<std::byte>* reply) {
  const auto range = message.As<ConfigRange>();
  if ((protocol_features_ & kProtocolConfig) == 0 || range.size > kMaxConfigBytes ||
      range.offset > kMaxConfigBytes - range.size) {
    return Fail(Code::kInvalidArgument, "a part of the configuration that does not exist");
  }
  reply->resize(sizeof(range) + range.size);
  std::memcpy(reply->data(), &range, sizeof(range));
  core_.ReadConfig(range.offset, std::span(*reply).subspan(sizeof(range)));
  return {};
}

Result<> Backend::SetConfig(const Message& message) {
  const auto range = message.As<ConfigRange>();
  if ((protocol_features_ & kProtocolConfig) == 0 || range.size > kMaxConfigBytes ||
      range.offset > kMaxConfigBytes - range.size ||
      message.payload.size() - sizeof(range) != range.size) {
    return Fail(Code::kInvalidArgument, "a part of the configuration that does not exist");
  }
  core_.WriteConfig(range.offset, std::span(message.payload).subspan(sizeof(range)));
  return {};
}

}  // namespace wyvern::vhost_user
