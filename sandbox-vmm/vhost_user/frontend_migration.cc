// What a front-end does for a live migration: the log of dirty pages, the device's state, RARP.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vhost_user/device_state.h"
#include "vhost_user/frontend.h"

namespace wyvern::vhost_user {

namespace {

using Deadline = Connection::Clock::time_point;

constexpr uint32_t kSaveState = 0;
constexpr uint32_t kLoadState = 1;
constexpr uint64_t kErrorMask = 0xff;
constexpr size_t kStatePiece = 4096;  // PIPE_BUF: a channel that can be written takes it whole

Result<> WaitChannel(FdRef channel, short events, Deadline deadline) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - Connection::Clock::now());
    pollfd polled{.fd = channel.get(), .events = events, .revents = 0};
    const int ready =
        ::poll(&polled, 1, static_cast<int>(std::clamp<int64_t>(left.count(), 0, 1 << 30)));
    if (ready > 0) {
      return {};
    }
    if (ready == 0) {
      return Fail(Code::kUnavailable, "the back-end does not go on with its state");
    }
    if (errno != EINTR) {
      return SysError("poll of a state channel");
    }
  }
}

Result<std::vector<std::byte>> ReadState(FdRef channel, Deadline deadline) {
  std::vector<std::byte> state;
  std::array<std::byte, kStatePiece> piece;
  for (;;) {
    WV_TRY_VOID(WaitChannel(channel, POLLIN, deadline));
    auto got = ReadSome(channel, piece);
    if (!got && got.error().sys_errno() == EAGAIN) {
      continue;
    }
    WV_TRY(const size_t bytes, std::move(got));
    if (bytes == 0) {
      return state;
    }
    if (state.size() + bytes > DeviceState::kMaxBytes) {
      return Fail(Code::kResourceExhausted, "a device state without end");
    }
    state.insert(state.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(bytes));
  }
}

Result<> WriteState(FdRef channel, std::span<const std::byte> state, Deadline deadline) {
  while (!state.empty()) {
    WV_TRY_VOID(WaitChannel(channel, POLLOUT, deadline));
    const ssize_t sent = ::write(channel.get(), state.data(), std::min(state.size(), kStatePiece));
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      return SysError("write of a device state");
    }
    state = state.subspan(sent > 0 ? static_cast<size_t>(sent) : 0);
  }
  return {};
}

}  // namespace

Result<> Frontend::StartLog(FdRef log, uint64_t size) {
  const std::lock_guard lock(control_);
  if ((protocol_features_ & kProtocolLogShmfd) == 0 || (backend_features_ & kFeatureLogAll) == 0) {
    return Fail(Code::kFailedPrecondition, "the back-end keeps no log of what it writes");
  }
  UniqueFd own(::fcntl(log.get(), F_DUPFD_CLOEXEC, 0));
  if (!own.valid()) {
    return SysError("dup of a log");
  }
  return SetLogging(Log{std::move(own), size});
}

Result<> Frontend::StopLog() {
  const std::lock_guard lock(control_);
  return SetLogging(std::nullopt);
}

// Before the first queue there is nothing to say yet.
Result<> Frontend::SetLogging(std::optional<Log> log) {
  log_ = std::move(log);
  log_sent_ = false;
  if (!sent_features_) {
    return {};
  }
  WV_TRY_VOID(SendLogBase());
  WV_TRY_VOID(SendFeatures((*sent_features_ & ~kFeatureLogAll) | (log_ ? kFeatureLogAll : 0)));
  for (uint16_t i = 0; i < queues_.size(); ++i) {
    if (queues_[i].running && served(i)) {
      WV_TRY_VOID(SendAddress(i));
    }
  }
  return {};
}

Result<> Frontend::SendLogBase() {
  if (!log_ || log_sent_) {
    return {};
  }
  const LogArea area{log_->size, 0};
  const FdRef fd[] = {log_->fd};
  // What the reply says differs from one back-end to the next; that there is one does not.
  WV_TRY_VOID(channel_->Ask(Request::kSetLogBase, std::as_bytes(std::span(&area, 1)), fd,
                            {0, sizeof(uint64_t), 0}));
  log_sent_ = true;
  return {};
}

Result<Message> Frontend::BeginTransfer(uint32_t direction, FdRef channel) {
  if ((protocol_features_ & kProtocolDeviceState) == 0) {
    return Fail(Code::kFailedPrecondition, "the back-end does not give its state away");
  }
  if (AnyRunning()) {
    return Fail(Code::kFailedPrecondition, "a state transfer while a queue runs");
  }
  const DeviceStateTransfer transfer{direction, 0};
  const FdRef fds[] = {channel};
  WV_TRY(Message reply,
         channel_->Ask(Request::kSetDeviceStateFd, std::as_bytes(std::span(&transfer, 1)), fds,
                       {sizeof(uint64_t), sizeof(uint64_t), 1}));
  const auto value = reply.As<uint64_t>();
  const bool none = (value & kNoFd) != 0;
  if (none != reply.fds.empty() || ((value & kErrorMask) != 0 && !none)) {
    return channel_->Lose(Request::kSetDeviceStateFd, Fault::kFdCount);
  }
  if ((value & kErrorMask) != 0) {
    return Fail(Code::kInternal, "the back-end refuses to transfer its state");
  }
  return reply;
}

Result<> Frontend::CheckTransfer() {
  WV_TRY(const uint64_t code, channel_->Get<uint64_t>(Request::kCheckDeviceState));
  if (code != 0) {
    return Fail(Code::kInternal, "the back-end did not get through with its state");
  }
  return {};
}

Result<std::vector<std::byte>> Frontend::SaveState() {
  const std::lock_guard lock(control_);
  WV_TRY(PipePair pipe, MakePipe(O_NONBLOCK));
  WV_TRY(const Message reply, BeginTransfer(kSaveState, pipe.write));
  pipe.write.Reset();
  const FdRef channel = reply.fds.empty() ? FdRef(pipe.read) : FdRef(reply.fds.front());
  WV_TRY(std::vector<std::byte> state,
         ReadState(channel, Connection::Clock::now() + options_.timeout));
  WV_TRY_VOID(CheckTransfer());
  return state;
}

Result<> Frontend::LoadState(std::span<const std::byte> state) {
  const std::lock_guard lock(control_);
  WV_TRY(PipePair pipe, MakePipe(O_NONBLOCK));
  WV_TRY(Message reply, BeginTransfer(kLoadState, pipe.read));
  pipe.read.Reset();
  UniqueFd channel = reply.fds.empty() ? std::move(pipe.write) : std::move(reply.fds.front());
  pipe.write.Reset();
  WV_TRY_VOID(WriteState(channel, state, Connection::Clock::now() + options_.timeout));
  channel.Reset();  // the end of the state
  return CheckTransfer();
}

Result<> Frontend::SendRarp(std::array<uint8_t, 6> mac) {
  const std::lock_guard lock(control_);
  if ((protocol_features_ & kProtocolRarp) == 0) {
    return Fail(Code::kFailedPrecondition, "the back-end sends no RARP");
  }
  uint64_t payload = 0;
  std::memcpy(&payload, mac.data(), mac.size());
  return channel_->SetValue(Request::kSendRarp, payload);
}

}  // namespace wyvern::vhost_user
