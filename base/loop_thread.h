// base/loop_thread.h — an event loop with a thread of its own.
// Threads: any for Call; Stop and the destructor from any but the loop's own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/worker_thread.h"

namespace wyvern {

class LoopThread {
 public:
  // `on_start` runs first on the thread. Its name is the first 15 bytes of `name`.
  static Result<std::unique_ptr<LoopThread>> Start(const std::string& name,
                                                   std::function<void()> on_start = nullptr);
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  EventLoop& loop() { return *loop_; }

  // Runs `task` on the loop and waits for it; at once if this is the loop's thread. Not after Stop.
  void Call(const EventLoop::Task& task);

  // Ends the loop and joins its thread; what was posted and has not run is dropped. Idempotent.
  void Stop();

 private:
  explicit LoopThread(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {}

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<WorkerThread> thread_;
};

}  // namespace wyvern
