// agent/oom_watch.h — tells when the kernel killed something in a container for want of memory (memory.events, oom_kill), and whether it was the
//          container that had reached its limit or the guest as a whole that had nothing left.
// Threads: the loop's thread.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "agent/cgroup.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::agent {

class OomWatch {
 public:
  enum class Reach : uint8_t { kContainer, kGuest };

  using Callback = std::function<void(const std::string& container_id, Reach reach)>;

  static Result<std::unique_ptr<OomWatch>> Create(EventLoop& loop, Callback on_oom);
  ~OomWatch();
  OomWatch(const OomWatch&) = delete;
  OomWatch& operator=(const OomWatch&) = delete;

  // A kernel without the memory controller gives no events.
  void Add(const std::string& id, const Cgroup& cgroup);
  // Reports what happened up to now: called before an exit is, so that the order is right.
  void Check(const std::string& id);
  void Remove(const std::string& id);

 private:
  struct Watched {
    Cgroup cgroup;
    int descriptor = -1;
    OomCounts counts;  // at the last kill that was told
    std::optional<std::chrono::steady_clock::time_point>
        at_limit;  // when it was told last that this was its own limit's
  };

  OomWatch(EventLoop& loop, UniqueFd inotify, Callback on_oom)
      : loop_(loop), inotify_(std::move(inotify)), on_oom_(std::move(on_oom)) {}

  void OnInotify();

  EventLoop& loop_;
  UniqueFd inotify_;
  Callback on_oom_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  std::map<std::string, Watched> watched_;
};

}  // namespace wyvern::agent
