#include "vhost_user/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/unix_socket.h"

namespace wyvern::vhost_user {

const char* FaultName(Fault fault) {
  switch (fault) {
    case Fault::kClosed:
      return "the peer hung up";
    case Fault::kTimeout:
      return "the peer does not answer";
    case Fault::kIo:
      return "the socket failed";
    case Fault::kTruncated:
      return "the peer hung up within a message";
    case Fault::kBadVersion:
      return "message of another protocol version";
    case Fault::kPayloadSize:
      return "message of a wrong length";
    case Fault::kFdCount:
      return "message with a wrong number of descriptors";
    case Fault::kUnexpected:
      return "unexpected message";
    case Fault::kRefused:
      return "the peer refused";
  }
  return "unknown fault";
}

Wire<> Connection::WaitFor(short events, Clock::time_point deadline) const {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd poll{.fd = socket_.get(), .events = events, .revents = 0};
    const int ready = ::poll(&poll, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
    if (ready > 0) {
      return {};
    }
    if (ready == 0) {
      return tl::unexpected(Fault::kTimeout);
    }
    if (errno != EINTR) {
      return tl::unexpected(Fault::kIo);
    }
  }
}

Wire<Message> Connection::Receive(Clock::time_point deadline) {
  Message message;
  const auto header = std::as_writable_bytes(std::span(&message.header, 1));
  size_t have = 0;
  while (have < sizeof(Header)) {
    WV_TRY_VOID(WaitFor(POLLIN, deadline));
    auto part = ReceiveMessage(socket_, header.subspan(have), kMaxTableRegions);
    if (!part) {
      return tl::unexpected(part.error().sys_errno() == ECONNRESET ? Fault::kClosed : Fault::kIo);
    }
    if (part->size == 0) {
      return tl::unexpected(have == 0 ? Fault::kClosed : Fault::kTruncated);
    }
    if (part->truncated || (have > 0 && !part->fds.empty())) {
      return tl::unexpected(Fault::kFdCount);
    }
    if (have == 0) {
      message.fds = std::move(part->fds);
    }
    have += part->size;
  }
  if ((message.header.flags & kVersionMask) != kVersion) {
    return tl::unexpected(Fault::kBadVersion);
  }
  if (message.header.size > kMaxPayload) {
    return tl::unexpected(Fault::kPayloadSize);
  }
  message.payload.resize(message.header.size);
  for (size_t at = 0; at < message.payload.size();) {
    WV_TRY_VOID(WaitFor(POLLIN, deadline));
    auto part = ReceiveMessage(socket_, std::span(message.payload).subspan(at), 0);
    if (!part) {
      return tl::unexpected(Fault::kIo);
    }
    if (part->size == 0) {
      return tl::unexpected(Fault::kTruncated);
    }
    if (part->truncated) {
      return tl::unexpected(Fault::kFdCount);
    }
    at += part->size;
  }
  return message;
}

Wire<> Connection::Send(uint32_t request, uint32_t flags, std::span<const std::byte> payload,
                        std::span<const FdRef> fds, Clock::time_point deadline) {
  const Header header{request, kVersion | flags, static_cast<uint32_t>(payload.size())};
  std::vector<std::byte> bytes(sizeof(header) + payload.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::copy(payload.begin(), payload.end(), bytes.begin() + sizeof(header));
  // A message is shorter than what the socket still takes when poll calls it writable, so this does
  // not block.
  WV_TRY_VOID(WaitFor(POLLOUT, deadline));
  auto sent = SendMessage(socket_, bytes, fds);
  if (!sent) {
    const int error = sent.error().sys_errno();
    return tl::unexpected(error == EPIPE || error == ECONNRESET ? Fault::kClosed : Fault::kIo);
  }
  return {};
}

void Connection::Shutdown() const {
  ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace wyvern::vhost_user
