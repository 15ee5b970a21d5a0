// base/event_loop.h — one thread, one epoll: callbacks for fds, timers and work posted by other
// threads.
// Threads: Add/Modify/Remove/After from the loop's thread (or before Run); Post and Stop from any
//          thread.
// Invariants: a callback removed while events are being dispatched is not called again, also not for
//          an event of the same batch; a new registration of the same fd number never gets events
//          of the old one (tokens, not fds, are the keys).
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "base/fd.h"

namespace wyvern {

class EventLoop {
 public:
  enum class Token : uint64_t { kNone = 0 };
  using IoCallback = std::function<void(uint32_t epoll_events)>;
  using Task = std::function<void()>;

  static Result<std::unique_ptr<EventLoop>> Create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Level-triggered unless EPOLLET is given. The fd stays the caller's and must outlive the
  // registration.
  Result<Token> Add(FdRef fd, uint32_t events, IoCallback callback);
  Result<> Modify(Token token, uint32_t events);
  // Idempotent. Safe inside the callback itself.
  void Remove(Token token);

  // Runs `task` once after `delay`; Remove(token) cancels it.
  Token After(std::chrono::milliseconds delay, Task task);

  // Queues `task` for the loop's thread; any thread; in order. Tasks posted after Stop are dropped
  // with the loop.
  void Post(Task task);

  // Runs until Stop. Returns an error only if epoll itself fails.
  Result<> Run();
  // Dispatches what is ready within `timeout` (0: only what is ready now); for tests and for loops
  // that are polled.
  Result<> RunOnce(std::chrono::milliseconds timeout);
  void Stop();
  // True on the thread that is inside Run/RunOnce.
  bool OnLoopThread() const;

 private:
  struct Source;
  EventLoop(UniqueFd epoll, EventFd wake);
  int TimeoutUntilNextTimer(std::chrono::milliseconds limit) const;
  void RunTimers();
  void RunPosted();

  UniqueFd epoll_;
  EventFd wake_;
  uint64_t next_token_ = 1;
  std::map<uint64_t, std::shared_ptr<Source>> sources_;
  std::multimap<std::chrono::steady_clock::time_point, std::pair<uint64_t, Task>> timers_;
  std::mutex mu_;
  std::vector<Task> posted_;  // guarded by mu_
  std::atomic<bool> stop_{false};
  std::atomic<std::thread::id> thread_;
};

}  // namespace wyvern
