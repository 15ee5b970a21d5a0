// base/unix_socket.h — AF_UNIX sockets: addresses, peer credentials, descriptors in messages.
// Trust:   a received message may carry any number of fds of any kind; the receiver closes what it
//          did not ask for.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace wyvern {

// sun_path less its terminating zero (unix(7)).
inline constexpr size_t kMaxUnixPath = 107;

struct SocketPair {
  UniqueFd first;
  UniqueFd second;
};

// SOCK_STREAM or SOCK_SEQPACKET, close-on-exec; SOCK_NONBLOCK may be or'ed in.
Result<SocketPair> MakeSocketPair(int type);

// Binds and listens; a stale file at `path` is not removed. The file gets `mode`. A path starting
// with '\0' is abstract.
Result<UniqueFd> ListenUnix(const std::string& path, mode_t mode, int type = SOCK_STREAM);
Result<UniqueFd> ConnectUnix(const std::string& path, int type = SOCK_STREAM);
// accept4 with close-on-exec; `flags` may add SOCK_NONBLOCK. EAGAIN is an error with that errno.
Result<UniqueFd> Accept(FdRef listener, int flags = 0);

struct PeerCredentials {
  pid_t pid;
  uid_t uid;
  gid_t gid;
};

Result<PeerCredentials> GetPeerCredentials(FdRef socket);

struct ReceivedMessage {
  size_t size = 0;  // 0 and no fds: the peer closed
  bool truncated = false;
  std::vector<UniqueFd> fds;
};

// One sendmsg with up to 253 fds (SCM_MAX_FD). MSG_NOSIGNAL.
Result<> SendMessage(FdRef socket, std::span<const std::byte> data, std::span<const FdRef> fds);
// One recvmsg, MSG_CMSG_CLOEXEC. At most `max_fds` are accepted: more are closed and `truncated` is
// set.
Result<ReceivedMessage> ReceiveMessage(FdRef socket, std::span<std::byte> buffer, size_t max_fds);
// The same, blocking until `deadline` at most, then DEADLINE_EXCEEDED; a deadline in the past takes
// nothing, so that a peer that never stops talking holds nobody up.
Result<ReceivedMessage> ReceiveMessageUntil(FdRef socket, std::span<std::byte> buffer,
                                            size_t max_fds,
                                            std::chrono::steady_clock::time_point deadline);

}  // namespace wyvern
