// agent/host_sockets.h — unix sockets in the guest that stand for sockets of the host: containers have them by bind mounts, and who connects to one
//                        is joined to a stream that the host opens for it.
// Shape:   the host is told that somebody waits (Event.socket), and takes one connection by each AcceptSocket; those that it has not taken wait in
//          the socket's backlog. It is told again as long as somebody does.
// Bounds:  kMaxSockets, kMaxSocketConnections. Without a descriptor for a connection (EMFILE) it waits.
// Errors:  AddSocket: INVALID_ARGUMENT, ALREADY_EXISTS, RESOURCE_EXHAUSTED, FAILED_PRECONDITION with the errno. AcceptSocket: NOT_FOUND: no such
//          socket; UNAVAILABLE: nobody waits any more; RESOURCE_EXHAUSTED.
// Threads: the loop's thread.   Trust: containers connect and write what they like; it is the host that must bear it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/stdio.h"
#include "base/event_loop.h"
#include "proto/agent.pb.h"
#include "ttrpc/call.h"

namespace wyvern::agent {

inline constexpr size_t kMaxSockets = 32;
inline constexpr size_t kMaxSocketConnections = 256;  // of all sockets

class HostSockets {
 public:
  // `pending` with a socket's name: somebody waits there.
  HostSockets(EventLoop& loop, StdioHub& hub, std::string directory,
              std::function<void(const std::string& name)> pending);
  ~HostSockets();
  HostSockets(const HostSockets&) = delete;
  HostSockets& operator=(const HostSockets&) = delete;

  Result<> Add(const v1::AddSocketRequest& request);
  Result<> Accept(const v1::AcceptSocketRequest& request);
  // Connections go on. Unknown: success.
  void Remove(const std::string& name);

 private:
  struct Socket {
    UniqueFd listener;
    EventLoop::Token token = EventLoop::Token::kNone;  // of the listener, or of its rest's end
  };

  std::string PathOf(const std::string& name) const { return directory_ + "/" + name; }

  Result<> Watch(const std::string& name);
  void Rest(const std::string& name);

  EventLoop& loop_;
  StdioHub& hub_;
  const std::string directory_;
  const std::function<void(const std::string&)> pending_;
  std::map<std::string, Socket> sockets_;
  // Shared with what may end after this.
  const std::shared_ptr<size_t> connections_ = std::make_shared<size_t>(0);
};

}  // namespace wyvern::agent
