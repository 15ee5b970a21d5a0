// bootstrap/socket.h — the shim's unix socket: its name, and who of several `start`s gets to listen on it.
// Shape:   <dir>/<sha256 hex of join(containerd address, namespace, group)>: 64 characters whatever the ids are. Directory 0700, socket 0600.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::shim {

inline constexpr const char* kDefaultSocketDir = "/run/containerd/s";

// What is hashed is a cleaned path, as Go's filepath.Join makes it: the same name containerd's own shims use.
std::string SocketPath(const std::string& dir, const std::string& containerd_address,
                       const std::string& ns, const std::string& group);

struct BoundSocket {
  UniqueFd listener;  // invalid: somebody of our group listens already
};

// Makes the directory, binds and listens. A socket file nobody listens on is replaced; parallel calls are serialised by a lock on the directory.
Result<BoundSocket> BindOrReuse(const std::string& path);

// True when a connect succeeds.
bool IsConnectable(const std::string& path);

// The process that called listen(2) last on the socket, 0 if none answers.
pid_t ListenerPid(const std::string& path);

}  // namespace wyvern::shim
