// agent/uevents.h — tells that the kernel has added, changed or removed some device.
// Why:     only that, not which: what there is stands in sysfs, which is read again. So nothing is parsed, an event that is lost or
//          forged costs one look, and a burst of them is one call.
// Spec:    NETLINK_KOBJECT_UEVENT, group 1 (lib/kobject_uevent.c).
// Threads: the loop's thread.
#pragma once

#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::agent {

class Uevents {
 public:
  static Result<std::unique_ptr<Uevents>> Create(EventLoop& loop, std::function<void()> on_change);
  ~Uevents();
  Uevents(const Uevents&) = delete;
  Uevents& operator=(const Uevents&) = delete;

 private:
  Uevents(EventLoop& loop, UniqueFd socket, std::function<void()> on_change)
      : loop_(loop), socket_(std::move(socket)), on_change_(std::move(on_change)) {}

  EventLoop& loop_;
  const UniqueFd socket_;
  const std::function<void()> on_change_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
};

}  // namespace wyvern::agent
