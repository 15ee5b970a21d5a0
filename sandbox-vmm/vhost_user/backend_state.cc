// Reset, status, and what outlives a back-end: chains in flight and the device's state.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "vhost_user/backend.h"
#include "vhost_user/state_file.h"

namespace wyvern::vhost_user {

namespace {

constexpr uint64_t kMaxStatus = 0xff;
constexpr uint32_t kDirectionSave = 0;
constexpr uint32_t kDirectionLoad = 1;
constexpr uint32_t kPhaseStopped = 0;
constexpr uint64_t kStateRefused = kNoFd | 1;

}  // namespace

// To the initial state, but for what was negotiated about the protocol and the memory table.
Result<> Backend::ResetDevice(Call& /*call*/) {
  for (uint16_t i = 0; i < ring_count(); ++i) {
    Stop(i);
    Forget(i);
    rings_[i] = Ring();
  }
  inflight_.reset();
  features_.reset();
  core_.Reset();
  return {};
}

Result<> Backend::SetStatus(Call& call) {
  const auto status = call.message.As<uint64_t>();
  if (status > kMaxStatus) {
    return Fail(Code::kInvalidArgument, "a device status of more than 8 bits");
  }
  if (status == 0) {
    return ResetDevice(call);
  }
  // A bit that does not stay (FEATURES_OK) is seen by GET_STATUS.
  core_.WriteStatus(static_cast<uint8_t>(status));
  return {};
}

Result<> Backend::GetStatus(Call& call) {
  call.Answer(uint64_t{core_.status()});
  return {};
}

// The memory is in use from now on; SET_INFLIGHT_FD gives the same again.
Result<> Backend::GetInflightFd(Call& call) {
  const auto wanted = call.message.As<InflightArea>();
  // No memory is the failure. The reply is as long as the request.
  call.answered = true;
  call.reply.resize(call.message.payload.size());
  WV_TRY(InflightRegion::Created created,
         InflightRegion::Create(wanted.queues, wanted.queue_size, ring_count()));
  std::memcpy(call.reply.data(), &created.area, std::min(call.reply.size(), sizeof(created.area)));
  call.reply_fd = std::move(created.fd);
  inflight_ = std::move(created.region);
  return {};
}

Result<> Backend::SetInflightFd(Call& call) {
  WV_TRY(inflight_, InflightRegion::Map(std::move(call.fds.front()),
                                        call.message.As<InflightArea>(), ring_count()));
  return {};
}

// Through files in memory, which the spec lets us put in place of the front-end's channel where that is
// none: nobody waits for the other's reads or writes.
Result<> Backend::SetDeviceStateFd(Call& call) {
  const auto transfer = call.message.As<DeviceStateTransfer>();
  call.Answer(kStateRefused);
  state_complete_ = false;
  state_to_load_.Reset();
  if (transfer.direction > kDirectionLoad || transfer.phase != kPhaseStopped) {
    return Fail(Code::kInvalidArgument, fmt::format("a state transfer of direction {} in phase {}",
                                                    transfer.direction, transfer.phase));
  }
  if (AnyRunning()) {
    return Fail(Code::kFailedPrecondition, "a state transfer while a ring runs");
  }
  return transfer.direction == kDirectionSave ? SaveState(call) : LoadState(call);
}

Result<> Backend::SaveState(Call& call) {
  WV_TRY(const std::vector<std::byte> state, options_.state->Save());
  WV_TRY(call.reply_fd, SealState(state));
  state_complete_ = true;
  call.Answer(uint64_t{0});
  return {};
}

Result<> Backend::LoadState(Call& call) {
  if (IsSealed(call.fds.front())) {
    state_to_load_ = std::move(call.fds.front());
    call.Answer(kNoFd);
    return {};
  }
  WV_TRY(UniqueFd room, MakeStateRoom());
  WV_TRY(state_to_load_, room.Duplicate());
  call.reply_fd = std::move(room);
  call.Answer(uint64_t{0});
  return {};
}

Result<> Backend::CheckDeviceState(Call& call) {
  call.Answer(uint64_t{1});
  if (state_to_load_.valid()) {
    const UniqueFd memory = std::move(state_to_load_);
    WV_TRY(const std::vector<std::byte> state,
           IsSealed(memory) ? ReadStateFile(memory) : ReadStateRoom(memory));
    WV_TRY_VOID(options_.state->Load(state));
    state_complete_ = true;
  }
  if (!state_complete_) {
    return Fail(Code::kFailedPrecondition, "no state was transferred");
  }
  call.Answer(uint64_t{0});
  return {};
}

}  // namespace wyvern::vhost_user
