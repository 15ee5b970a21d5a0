#include "vhost_user/backend_requests.h"

#include <fmt/format.h>

#include "base/check.h"

namespace wyvern::vhost_user {

namespace {

Wire<> ReceiveAck(Connection* connection, BackendRequest request,
                  Connection::Clock::time_point deadline) {
  WV_TRY(const Message reply, connection->Receive(deadline));
  if (reply.header.request != static_cast<uint32_t>(request) ||
      (reply.header.flags & kFlagReply) == 0) {
    return tl::unexpected(Fault::kUnexpected);
  }
  if (reply.payload.size() != sizeof(uint64_t)) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  if (!reply.fds.empty()) {
    return tl::unexpected(Fault::kFdCount);
  }
  return reply.As<uint64_t>() == 0 ? Wire<>() : Wire<>(tl::unexpected(Fault::kRefused));
}

}  // namespace

void BackendRequests::SetChannel(UniqueFd socket) {
  const std::lock_guard lock(mu_);
  connection_ = std::make_unique<Connection>(std::move(socket));
}

void BackendRequests::SetProtocolFeatures(uint64_t features) {
  const std::lock_guard lock(mu_);
  protocol_features_ = features;
}

Result<> BackendRequests::ConfigChanged() {
  return Ask(BackendRequest::kConfigChange, {}, {}, false);
}

Result<> BackendRequests::MapShared(uint8_t shmid, uint64_t offset, FdRef fd, uint64_t fd_offset,
                                    uint64_t length, bool writable) {
  const ShmemMapping mapping{shmid, {}, fd_offset, offset, length, writable ? kShmemWritable : 0};
  const FdRef fds[] = {fd};
  return Ask(BackendRequest::kShmemMap, std::as_bytes(std::span(&mapping, 1)), fds, true);
}

Result<> BackendRequests::UnmapShared(uint8_t shmid, uint64_t offset, uint64_t length) {
  const ShmemMapping mapping{shmid, {}, 0, offset, length, 0};
  return Ask(BackendRequest::kShmemUnmap, std::as_bytes(std::span(&mapping, 1)), {}, true);
}

Result<> BackendRequests::Ask(BackendRequest request, std::span<const std::byte> payload,
                              std::span<const FdRef> fds, bool wait) {
  const RequestRule* rule = FindRule(BackendRequestRules(), static_cast<uint32_t>(request));
  WV_CHECK(rule != nullptr);
  const std::lock_guard lock(mu_);
  if (connection_ == nullptr || (protocol_features_ & rule->needs) != rule->needs) {
    return Fail(Code::kFailedPrecondition, fmt::format("the front-end takes no {}", rule->name));
  }
  const bool acknowledged = wait && (protocol_features_ & kProtocolReplyAck) != 0;
  const auto deadline = Connection::Clock::now() + timeout_;
  Wire<> done =
      connection_->Send(request, acknowledged ? kFlagNeedReply : 0, payload, fds, deadline);
  if (done && acknowledged) {
    done = ReceiveAck(connection_.get(), request, deadline);
  }
  if (done) {
    return {};
  }
  if (done.error() == Fault::kRefused) {
    return Fail(Code::kInternal, fmt::format("the front-end refused {}", rule->name));
  }
  connection_.reset();
  return Fail(Code::kUnavailable, fmt::format("{}: {}", rule->name, FaultName(done.error())));
}

}  // namespace wyvern::vhost_user
