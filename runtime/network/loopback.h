// network/loopback.h — connections to the loopback of a network namespace on the host, where nobody listens: those of CRI's port-forward, which
//                      dials localhost there. They are taken for the guest, in which what they look for listens.
// Method:  a socket of ours in the namespace, and a BPF program of the type SK_LOOKUP (Linux 5.9) that gives it each new TCP connection to
//          127.0.0.0/8 or ::1, whatever the port. Both end with their descriptors: nothing is to be undone, also not after a crash, no address
//          or rule is seen by anybody, and none of netfilter's modules is needed.
// Limits:  a connection is accepted before the guest is asked: one that the guest refuses is reset. Without a descriptor for them (EMFILE) they
//          wait in the kernel, and are looked for again a little later.
// Ownership:keeps the namespace alive.
// Threads: the loop's, all of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::runtime {

class LoopbackListener {
 public:
  using Accepted = std::function<void(UniqueFd connection, uint16_t port)>;

  // FAILED_PRECONDITION, PERMISSION_DENIED, …: the kernel has no such programs, or lets nobody load them.
  static Result<std::unique_ptr<LoopbackListener>> Start(EventLoop& loop, FdRef network_namespace,
                                                         Accepted accepted);
  ~LoopbackListener();
  LoopbackListener(const LoopbackListener&) = delete;
  LoopbackListener& operator=(const LoopbackListener&) = delete;

 private:
  LoopbackListener(EventLoop& loop, UniqueFd listener, UniqueFd link, Accepted accepted);
  Result<> Listen();
  void OnConnections();
  void Rest();

  EventLoop& loop_;
  const UniqueFd listener_;
  const UniqueFd link_;  // of the program to the namespace: it holds program and map
  const Accepted accepted_;
  EventLoop::Token token_ = EventLoop::Token::kNone;  // of the listener, or of the rest's end
};

}  // namespace wyvern::runtime
