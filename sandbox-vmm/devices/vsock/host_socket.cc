#include "vsock/host_socket.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace wyvern::devices {

namespace {

// What Linux takes off SO_SNDBUF for one message (af_unix.c, unix_dgram_sendmsg).
constexpr int kMessageOverhead = 32;

}  // namespace

Result<std::unique_ptr<HostSocket>> HostSocket::Create(UniqueFd fd) {
  int type = 0;
  socklen_t length = sizeof(type);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
    return SysError("vsock: not a socket");
  }
  if (type == SOCK_STREAM) {
    return std::make_unique<HostStream>(std::move(fd));
  }
  if (type != SOCK_SEQPACKET) {
    return Fail(Code::kInvalidArgument, "vsock: a stream or seqpacket socket is needed");
  }
  int send_buffer = 0;
  length = sizeof(send_buffer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_SNDBUF, &send_buffer, &length) != 0) {
    return SysError("vsock: getsockopt(SO_SNDBUF)");
  }
  const auto largest = static_cast<uint32_t>(std::max(send_buffer - kMessageOverhead, 1));
  return std::make_unique<HostMessages>(std::move(fd), largest);
}

uint32_t HostSocket::PayloadRoom(const virtio::Chain& chain) {
  return std::min(chain.writable_length() - kVsockHeaderSize, kMaxVsockPayload);
}

uint32_t HostSocket::Room(std::span<virtio::Chain> chains, uint32_t limit, size_t max_parts,
                          std::vector<iovec>* iovecs) {
  uint32_t room = 0;
  iovecs->clear();
  for (const virtio::Chain& chain : chains) {
    const uint32_t part = std::min(PayloadRoom(chain), limit - room);
    if (part == 0 || !chain.WritableIovecs(kVsockHeaderSize, part, iovecs)) {
      break;
    }
    room += part;
  }
  // A buffer across many regions of memory is many parts.
  while (iovecs->size() > max_parts) {
    room -= static_cast<uint32_t>(iovecs->back().iov_len);
    iovecs->pop_back();
  }
  return room;
}

int64_t HostSocket::Receive(std::vector<iovec>* iovecs, int* flags) {
  msghdr message{};
  message.msg_iov = iovecs->data();
  message.msg_iovlen = iovecs->size();
  ssize_t got = 0;
  do {
    ++reads_;
    got = recvmsg(fd_.get(), &message, *flags | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  *flags = message.msg_flags;
  return got < 0 ? -errno : got;
}

int64_t HostSocket::Send(std::span<iovec> iovecs, int flags) {
  msghdr message{};
  message.msg_iov = iovecs.data();
  message.msg_iovlen = iovecs.size();
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd_.get(), &message, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) {
    return sent;
  }
  if (errno == EAGAIN) {
    return -EAGAIN;
  }
  host_reads_ = false;
  return -EPIPE;
}

std::array<iovec, 2> HostSocket::AsIovecs(const ByteQueue::Pieces<const std::byte>& pieces) {
  const auto as_iovec = [](std::span<const std::byte> piece) {
    return iovec{.iov_base = const_cast<std::byte*>(piece.data()), .iov_len = piece.size()};
  };
  return {as_iovec(pieces[0]), as_iovec(pieces[1])};
}

}  // namespace wyvern::devices
