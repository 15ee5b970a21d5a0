// Rings: where they are, when they run, and where they go on.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "vhost_user/backend.h"

namespace wyvern::vhost_user {

namespace {

// Both indices 0, both wrap counters 1 (VIRTIO §2.8.1).
constexpr uint32_t kPackedStart = 0x80008000;
// The same from DPDK's driver, which tells the available half only. By the spec it would be a ring
// that is in flight from end to end.
constexpr uint32_t kPackedStartOfDpdk = 0x8000;

constexpr uint32_t ToNum(const virtio::QueueState& state, bool packed) {
  return state.next_available | (packed ? uint32_t{state.next_used} << 16U : 0);
}

bool SameAddresses(const VringAddress& a, const VringAddress& b) {
  return a.descriptor == b.descriptor && a.used == b.used && a.available == b.available;
}

}  // namespace

// Deprecated: disables all rings, and nothing else of what some back-ends made of it.
Result<> Backend::ResetOwner(Call& /*call*/) {
  for (uint16_t i = 0; i < ring_count(); ++i) {
    Stop(i);
    rings_[i].enabled = false;
  }
  return {};
}

Result<Backend::Ring*> Backend::FindRing(uint64_t index) {
  if (index >= rings_.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("no ring {}", index));
  }
  return &rings_[index];
}

Result<> Backend::SetVringNum(Call& call) {
  const auto state = call.message.As<VringState>();
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

Result<> Backend::SetVringAddr(Call& call) {
  const auto address = call.message.As<VringAddress>();
  WV_TRY(Ring * ring, FindRing(address.index));
  if ((address.flags & ~kVringLog) != 0) {
    return Fail(Code::kInvalidArgument, "ring flags that do not exist");
  }
  const auto index = static_cast<uint16_t>(address.index);
  if (core_.running(index)) {
    // A migration begins or ends: only the logging of the used ring may change.
    if (!SameAddresses(address, ring->address)) {
      return Fail(Code::kFailedPrecondition, "the ring is running");
    }
    Stop(index);
    ring->address = address;
    return StartIfReady(index);
  }
  ring->address = address;
  ring->has_address = true;
  if (memory_.memory() != nullptr) {
    WV_TRY_VOID(Translate(*ring));
  }
  return StartIfReady(index);
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

Result<> Backend::SetVringBase(Call& call) {
  const auto state = call.message.As<VringState>();
  WV_TRY(Ring * ring, FindRing(state.index));
  if (core_.running(static_cast<uint16_t>(state.index))) {
    return Fail(Code::kFailedPrecondition, "the ring is running");
  }
  if (!packed() && state.num > UINT16_MAX) {
    return Fail(Code::kInvalidArgument, "an index of more than 16 bits");
  }
  ring->base = state.num;
  ring->left.reset();
  return {};
}

Result<> Backend::GetVringBase(Call& call) {
  const auto state = call.message.As<VringState>();
  WV_TRY(Ring * ring, FindRing(state.index));
  const auto index = static_cast<uint16_t>(state.index);
  Stop(index);
  Forget(index);
  const uint32_t start = packed() ? kPackedStart : 0;
  const uint32_t base = ring->left ? ToNum(*ring->left, packed()) : ring->base.value_or(start);
  ring->base = base;
  ring->left.reset();
  call.Answer(VringState{index, base});
  return {};
}

namespace {

// The ring's number and whether a descriptor comes with it, of SET_VRING_KICK, CALL and ERR.
Result<uint16_t> RingOfFd(uint64_t value, bool has_fd) {
  const bool none = (value & kNoFd) != 0;
  if (none == has_fd || (value & ~(kVringIndexMask | kNoFd)) != 0) {
    return Fail(Code::kInvalidArgument, "a descriptor where none was promised, or the reverse");
  }
  return static_cast<uint16_t>(value & kVringIndexMask);
}

UniqueFd FirstOrNone(std::vector<UniqueFd>& fds) {
  return fds.empty() ? UniqueFd() : std::move(fds.front());
}

}  // namespace

Result<> Backend::SetVringKick(Call& call) {
  WV_TRY(const uint16_t index, RingOfFd(call.message.As<uint64_t>(), !call.fds.empty()));
  WV_TRY(Ring * ring, FindRing(index));
  if (call.fds.empty() && options_.poll_interval.count() == 0) {
    return Fail(Code::kUnimplemented, "rings without a kick would have to be polled");
  }
  Stop(index);
  Forget(index);
  if (call.fds.empty()) {
    WV_TRY_VOID(Poll(index));
  } else {
    ring->kick = std::move(call.fds.front());
  }
  ring->started = true;
  return StartIfReady(index);
}

Result<> Backend::Poll(uint16_t index) {
  if (poller_ == nullptr) {
    WV_TRY(poller_, KickPoller::Start(options_.poll_interval));
  }
  WV_TRY(EventFd kick, EventFd::Create());
  WV_TRY_VOID(poller_->Add(index, kick));
  rings_[index].kick = std::move(kick).Take();
  return {};
}

Result<> Backend::SetVringCall(Call& call) {
  WV_TRY(const uint16_t index, RingOfFd(call.message.As<uint64_t>(), !call.fds.empty()));
  WV_TRY_VOID(FindRing(index));
  interrupt_->SetCall(index, FirstOrNone(call.fds));
  return {};
}

Result<> Backend::SetVringErr(Call& call) {
  WV_TRY(const uint16_t index, RingOfFd(call.message.As<uint64_t>(), !call.fds.empty()));
  WV_TRY_VOID(FindRing(index));
  interrupt_->SetError(index, FirstOrNone(call.fds));
  return {};
}

// A started ring that is disabled is to be processed without side effects. Where that is more than to
// stand still (a network device's), the device knows how.
Result<> Backend::SetVringEnable(Call& call) {
  const auto state = call.message.As<VringState>();
  WV_TRY(Ring * ring, FindRing(state.index));
  if (state.num > 1) {
    return Fail(Code::kInvalidArgument, "a ring is enabled by 1 or disabled by 0");
  }
  const auto index = static_cast<uint16_t>(state.index);
  ring->enabled = state.num == 1;
  if (core_.running(index) && core_.traits().runs_disabled) {
    core_.device().SetQueueEnabled(index, ring->enabled);
    return {};
  }
  if (!ring->enabled && !core_.traits().runs_disabled) {
    Stop(index);
    return {};
  }
  return StartIfReady(index);
}

Result<virtio::QueueState> Backend::ResumeAt(const Ring& ring,
                                             const virtio::QueueConfig& config) const {
  if (ring.left) {
    return *ring.left;
  }
  if (packed()) {
    const uint32_t told = ring.base.value_or(kPackedStart);
    const uint32_t base = told == kPackedStartOfDpdk ? kPackedStart : told;
    return virtio::QueueState{static_cast<uint16_t>(base & 0xffffU),
                              static_cast<uint16_t>(base >> 16U)};
  }
  // The front-end tells the available index only; the used one is in the ring.
  const auto used = virtio::Queue::UsedIndexInRing(*memory_.memory(), config);
  if (!used) {
    return Fail(Code::kInvalidArgument, virtio::ChainFaultName(used.error()));
  }
  return virtio::QueueState{static_cast<uint16_t>(ring.base.value_or(0)), *used};
}

Result<Tracking> Backend::Track(uint16_t index, virtio::QueueState* state) const {
  const Ring& ring = rings_[index];
  Tracking tracking;
  if ((features_.value_or(0) & kFeatureLogAll) != 0 && log_ != nullptr) {
    tracking.log = log_;
    tracking.logged = logged_;
    if ((ring.address.flags & kVringLog) != 0) {
      tracking.used_log = ring.address.log;
    }
  }
  std::unique_ptr<InflightRing> inflight = inflight_ != nullptr ? inflight_->ring(index) : nullptr;
  if (inflight == nullptr || packed()) {
    return tracking;
  }
  if (inflight->descriptors() < ring.size) {
    // A front-end that asked for less memory than it then has descriptors: the ring runs all the same.
    WV_WARN_LIMITED(
        "vhost-user: ring {} of {} descriptors has in-flight memory for {}: not tracked", index,
        ring.size, inflight->descriptors());
    return tracking;
  }
  WV_TRY(auto recovered, inflight->Recover(state->next_used, ring.size));
  if (!recovered.fresh) {
    // Whoever gave the base may have lost it with the back-end before us. What was taken is given
    // back or in flight.
    state->next_available = static_cast<uint16_t>(state->next_used + recovered.heads.size());
  }
  tracking.inflight = std::move(inflight);
  tracking.resubmit = std::move(recovered.heads);
  return tracking;
}

Result<> Backend::StartIfReady(uint16_t index) {
  const Ring& ring = rings_[index];
  const bool runs_disabled = core_.traits().runs_disabled;
  if (!ring.started || (!ring.enabled && !runs_disabled) || !ring.has_address || ring.size == 0 ||
      memory_.memory() == nullptr || core_.running(index)) {
    return {};
  }
  WV_TRY(virtio::QueueConfig config, Translate(ring));
  WV_TRY_CONTEXT(virtio::QueueState state, ResumeAt(ring, config), fmt::format("ring {}", index));
  WV_TRY_CONTEXT(Tracking tracking, Track(index, &state), fmt::format("ring {}", index));
  if (tracking.any()) {
    config.maker = MakeTracked(std::move(tracking));
  }
  WV_TRY_VOID(core_.ConfigureQueue(index, config));
  if (runs_disabled) {
    core_.device().SetQueueEnabled(index, ring.enabled);
  }
  WV_TRY_VOID(core_.StartQueue(index, state));
  UpdateSuspended();
  return {};
}

void Backend::Stop(uint16_t index) {
  if (const auto state = core_.StopQueue(index)) {
    rings_[index].left = *state;
    UpdateSuspended();
  }
}

// Stopped for the front-end, too: until the next SET_VRING_KICK.
void Backend::Forget(uint16_t index) {
  rings_[index].started = false;
  rings_[index].kick.Reset();
  if (poller_ != nullptr) {
    poller_->Remove(index);
  }
}

bool Backend::AnyRunning() const {
  for (uint16_t i = 0; i < ring_count(); ++i) {
    if (core_.running(i)) {
      return true;
    }
  }
  return false;
}

void Backend::UpdateSuspended() {
  interrupt_->SetSuspended(!AnyRunning());
}

}  // namespace wyvern::vhost_user
