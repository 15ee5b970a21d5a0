#include "base/unix_socket.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace wyvern {

namespace {

struct Address {
  sockaddr_un raw{};
  socklen_t length = 0;
};

Result<Address> MakeAddress(const std::string& path) {
  if (path.empty() || path.size() > kMaxUnixPath) {
    return Fail(Code::kInvalidArgument, "a unix socket path has 1 to " +
                                            std::to_string(kMaxUnixPath) + " bytes, not " +
                                            std::to_string(path.size()) + ": " + path);
  }
  Address address;
  address.raw.sun_family = AF_UNIX;
  std::memcpy(address.raw.sun_path, path.data(), path.size());
  const bool abstract = path[0] == '\0';
  address.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  return address;
}

constexpr size_t kMaxFdsPerMessage = 253;  // SCM_MAX_FD in the kernel

}  // namespace

Result<SocketPair> MakeSocketPair(int type) {
  std::array<int, 2> fds{};
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return SysError("socketpair");
  }
  return SocketPair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

Result<UniqueFd> ListenUnix(const std::string& path, mode_t mode, int type) {
  WV_TRY(const Address address, MakeAddress(path));
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return SysError("socket(AF_UNIX)");
  }
  // The mode is set on the socket before bind, so that the file never has a wider one.
  if (path[0] != '\0' && fchmod(fd.get(), mode) != 0) {
    return SysError("fchmod socket");
  }
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.raw), address.length) != 0) {
    return SysError("bind " + path);
  }
  if (path[0] != '\0' && chmod(path.c_str(), mode) != 0) {
    return SysError("chmod " + path);
  }
  if (listen(fd.get(), SOMAXCONN) != 0) {
    return SysError("listen " + path);
  }
  return fd;
}

Result<UniqueFd> ConnectUnix(const std::string& path, int type) {
  WV_TRY(const Address address, MakeAddress(path));
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return SysError("socket(AF_UNIX)");
  }
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.raw), address.length) != 0) {
    return SysError("connect " + path);
  }
  return fd;
}

Result<UniqueFd> Accept(FdRef listener, int flags) {
  int fd = -1;
  do {
    fd = accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | flags);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    return SysError("accept");
  }
  return UniqueFd(fd);
}

Result<PeerCredentials> GetPeerCredentials(FdRef socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) {
    return SysError("getsockopt(SO_PEERCRED)");
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

Result<> SendMessage(FdRef socket, std::span<const std::byte> data, std::span<const FdRef> fds) {
  if (fds.size() > kMaxFdsPerMessage) {
    return Fail(Code::kInvalidArgument, "too many descriptors for one message");
  }
  iovec part{.iov_base = const_cast<std::byte*>(data.data()), .iov_len = data.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxFdsPerMessage * sizeof(int))> control{};
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i].get();
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
    }
  }
  ssize_t sent = -1;
  do {
    sent = sendmsg(socket.get(), &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return SysError("sendmsg");
  }
  if (static_cast<size_t>(sent) < data.size()) {
    // A stream socket took a part; the descriptors went with it.
    return WriteAll(socket, data.subspan(static_cast<size_t>(sent)));
  }
  return {};
}

Result<ReceivedMessage> ReceiveMessage(FdRef socket, std::span<std::byte> buffer, size_t max_fds) {
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(kMaxFdsPerMessage * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    return SysError("recvmsg");
  }
  ReceivedMessage received;
  received.size = static_cast<size_t>(got);
  received.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      UniqueFd owned(fd);
      if (received.fds.size() < max_fds) {
        received.fds.push_back(std::move(owned));
      } else {
        received.truncated = true;
      }
    }
  }
  return received;
}

Result<ReceivedMessage> ReceiveMessageUntil(FdRef socket, std::span<std::byte> buffer,
                                            size_t max_fds,
                                            std::chrono::steady_clock::time_point deadline) {
  pollfd polled{.fd = socket.get(), .events = POLLIN, .revents = 0};
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return Fail(Code::kDeadlineExceeded, "no message in time");
    }
    const int ready = poll(&polled, 1, static_cast<int>(left.count()));
    if (ready > 0) {
      return ReceiveMessage(socket, buffer, max_fds);
    }
    if (ready < 0 && errno != EINTR) {
      return SysError("poll");
    }
  }
}

}  // namespace wyvern
