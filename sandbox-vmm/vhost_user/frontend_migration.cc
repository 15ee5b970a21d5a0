// What a front-end does for a live migration: the log of dirty pages, the device's state, RARP.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/unix_socket.h"
#include "vhost_user/device_state.h"
#include "vhost_user/frontend.h"
#include "vhost_user/state_file.h"

namespace wyvern::vhost_user {

namespace {

using Deadline = Connection::Clock::time_point;

constexpr uint32_t kSaveState = 0;
constexpr uint32_t kLoadState = 1;
constexpr uint64_t kErrorMask = 0xff;
constexpr size_t kStatePiece = 16384;

// After the deadline there is nothing to read, whatever is there: a back-end may never stop.
Result<> WaitChannel(FdRef channel, Deadline deadline) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - Connection::Clock::now());
    pollfd polled{.fd = channel.get(), .events = POLLIN, .revents = 0};
    const int ready =
        left.count() > 0
            ? ::poll(&polled, 1, static_cast<int>(std::min<int64_t>(left.count(), 1 << 30)))
            : 0;
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

// `channel` is ours alone, and not blocking: whatever the back-end does at its own end, a read of it
// returns.
Result<std::vector<std::byte>> ReadChannel(FdRef channel, Deadline deadline) {
  std::vector<std::byte> state;
  std::array<std::byte, kStatePiece> piece;
  for (;;) {
    WV_TRY_VOID(WaitChannel(channel, deadline));
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
  for (uint16_t i = 0; i < static_cast<uint16_t>(queues_.size()); ++i) {
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

// The back-end writes into a socket of ours, and no pipe: who writes to a pipe has its lock while the
// kernel fetches his bytes, which may be in a file that he never answers for, and a reader waits for
// that lock. It may show us a file instead, if reading that waits for nobody.
Result<std::vector<std::byte>> Frontend::SaveState() {
  const std::lock_guard lock(control_);
  WV_TRY(SocketPair channel, MakeSocketPair(SOCK_STREAM));
  WV_TRY_VOID(SetNonBlocking(channel.first, true));
  WV_TRY(const Message reply, BeginTransfer(kSaveState, channel.second));
  channel.second.Reset();
  if (!reply.fds.empty() && !IsInMemory(reply.fds.front())) {
    return Fail(Code::kFailedPrecondition, "the back-end's own channel could make us wait for it");
  }
  WV_TRY(std::vector<std::byte> state,
         reply.fds.empty() ? ReadChannel(channel.first, Connection::Clock::now() + options_.timeout)
                           : ReadStateFile(reply.fds.front()));
  WV_TRY_VOID(CheckTransfer());
  return state;
}

// All of it lies in the file that the back-end gets, which may take its time. A channel of its own we
// could only write to: a file has a lock for that, which whoever has the file can keep for himself.
Result<> Frontend::LoadState(std::span<const std::byte> state) {
  const std::lock_guard lock(control_);
  WV_TRY(const UniqueFd file, SealState(state));
  WV_TRY(const Message reply, BeginTransfer(kLoadState, file));
  if (!reply.fds.empty()) {
    return Fail(Code::kFailedPrecondition, "the back-end's own channel could make us wait for it");
  }
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
