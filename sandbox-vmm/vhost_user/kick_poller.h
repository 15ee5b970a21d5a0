// vhost_user/kick_poller.h — kicks rings that have no kick descriptor: SET_VRING_KICK with bit 8
// asks the back-end to poll.
// Shape:   one thread signals an eventfd per polled ring at a fixed interval; a device finds nothing
//          or something, and cannot tell it from a driver that kicks too often.
// Threads: Add and Remove from one; the thread is its own.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>

#include "base/event_fd.h"
#include "base/worker_thread.h"

namespace wyvern::vhost_user {

class KickPoller {
 public:
  static Result<std::unique_ptr<KickPoller>> Start(std::chrono::milliseconds interval);

  // Signals a duplicate of `kick` from now on.
  Result<> Add(uint16_t index, const EventFd& kick);
  // Idempotent. The ring's descriptor may be closed before.
  void Remove(uint16_t index);

 private:
  explicit KickPoller(std::chrono::milliseconds interval) : interval_(interval) {}

  void Run(const EventFd& stop);

  const std::chrono::milliseconds interval_;
  std::mutex mu_;
  std::map<uint16_t, EventFd> kicks_;  // guarded by mu_
  std::unique_ptr<WorkerThread> thread_;
};

}  // namespace wyvern::vhost_user
