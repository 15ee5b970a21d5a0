// network/watch.h — tells when a network namespace may have changed: look again (ScanNetwork).
// Method:  links, addresses and routes, by the multicast groups of rtnetlink(7). What a message says is not read: a scan is the truth, and a
//          message that was lost (ENOBUFS) is a reason to scan like any other.
// Ownership:keeps the namespace alive.
// Threads: the loop's, all of it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "base/event_loop.h"

namespace wyvern::runtime {

// From the first message to the call: a CNI plugin's steps are one change.
inline constexpr std::chrono::milliseconds kNetworkSettles{100};

class NetworkWatch {
 public:
  // `changed` is called once for all of kNetworkSettles, on the loop; it may destroy this. What was before the start is not told.
  static Result<std::unique_ptr<NetworkWatch>> Start(EventLoop& loop, FdRef network_namespace,
                                                     std::function<void()> changed);
  ~NetworkWatch();
  NetworkWatch(const NetworkWatch&) = delete;
  NetworkWatch& operator=(const NetworkWatch&) = delete;

 private:
  NetworkWatch(EventLoop& loop, UniqueFd socket, std::function<void()> changed);
  void OnMessages();

  EventLoop& loop_;
  UniqueFd socket_;
  std::function<void()> changed_;
  EventLoop::Token reading_{};
  EventLoop::Token settling_{};  // kNone: nothing has happened since the last call
};

}  // namespace wyvern::runtime
