#include "vhost_user/frontend_channel.h"

#include <fmt/format.h>

#include "base/log.h"

namespace wyvern::vhost_user {

tl::unexpected<Error> FrontendChannel::Lose(Request request, Fault fault) {
  lost_ = true;
  connection_.Shutdown();
  return Fail(Code::kUnavailable,
              fmt::format("{}: {}", RequestName(static_cast<uint32_t>(request)), FaultName(fault)));
}

bool FrontendChannel::TakesItsTime(Request request) const {
  switch (request) {
    case Request::kGetVringBase:
    case Request::kResetDevice:
    case Request::kSetDeviceStateFd:
    case Request::kCheckDeviceState:
      return true;
    case Request::kSetFeatures:
    case Request::kSetLogBase:
    case Request::kSetMemTable:
    case Request::kAddMemReg:
    case Request::kRemMemReg:
    case Request::kSetVringAddr:
      return rings_run_;
    default:
      return false;
  }
}

// A request of the guest's takes as long as it takes (an fsync of much that is dirty), and a state as
// long as there is much of it (a file server's million of inodes).
Wire<> FrontendChannel::AwaitDrained(Request request) const {
  const auto begun = Connection::Clock::now();
  const auto last = begun + drain_timeout_;
  for (auto next = begun + timeout_;; next += timeout_) {
    const Wire<> ready = connection_.WaitReadable(std::min(next, last));
    if (ready || ready.error() != Fault::kTimeout || next >= last) {
      return ready;
    }
    WV_WARN("vhost-user: {} waits for the back-end: {} ms of at most {}",
            RequestName(static_cast<uint32_t>(request)),
            std::chrono::duration_cast<std::chrono::milliseconds>(next - begun).count(),
            drain_timeout_.count());
  }
}

Wire<Message> FrontendChannel::ReceiveReply(Request request, const Expected& expected,
                                            Connection::Clock::time_point deadline) {
  if (TakesItsTime(request)) {
    WV_TRY_VOID(AwaitDrained(request));
    deadline = Connection::Clock::now() + timeout_;
  }
  WV_TRY(Message reply, connection_.Receive(deadline));
  if (reply.header.request != static_cast<uint32_t>(request) ||
      (reply.header.flags & kFlagReply) == 0) {
    return tl::unexpected(Fault::kUnexpected);
  }
  if (reply.payload.size() < expected.min_size || reply.payload.size() > expected.max_size) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  if (reply.fds.size() > expected.max_fds) {
    return tl::unexpected(Fault::kFdCount);
  }
  return reply;
}

Result<> FrontendChannel::Set(Request request, std::span<const std::byte> payload,
                              std::span<const FdRef> fds) {
  if (lost_) {
    return Fail(Code::kUnavailable, "the vhost-user back-end is lost");
  }
  const auto deadline = Connection::Clock::now() + timeout_;
  const bool acknowledged = (protocol_features_ & kProtocolReplyAck) != 0;
  const auto sent =
      connection_.Send(request, acknowledged ? kFlagNeedReply : 0, payload, fds, deadline);
  if (!sent) {
    return Lose(request, sent.error());
  }
  if (!acknowledged) {
    return {};
  }
  const auto reply = ReceiveReply(request, {sizeof(uint64_t), sizeof(uint64_t), 0}, deadline);
  if (!reply) {
    return Lose(request, reply.error());
  }
  if (reply->As<uint64_t>() != 0) {
    return Fail(Code::kInternal, fmt::format("the vhost-user back-end refused {}",
                                             RequestName(static_cast<uint32_t>(request))));
  }
  return {};
}

Result<Message> FrontendChannel::Ask(Request request, std::span<const std::byte> payload,
                                     std::span<const FdRef> fds, const Expected& expected) {
  if (lost_) {
    return Fail(Code::kUnavailable, "the vhost-user back-end is lost");
  }
  const auto deadline = Connection::Clock::now() + timeout_;
  const auto sent = connection_.Send(request, 0, payload, fds, deadline);
  if (!sent) {
    return Lose(request, sent.error());
  }
  auto reply = ReceiveReply(request, expected, deadline);
  if (!reply) {
    return Lose(request, reply.error());
  }
  return *std::move(reply);
}

}  // namespace wyvern::vhost_user
