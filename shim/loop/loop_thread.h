// loop/loop_thread.h — an event loop with a thread of its own.
// Threads: Post and Call from any thread (Call not from the loop's own); the destructor stops and joins.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/event_loop.h"

namespace wyvern::shim {

class LoopThread {
 public:
  static Result<std::unique_ptr<LoopThread>> Start(const std::string& name);
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  EventLoop& loop() { return *loop_; }

  // Runs `task` on the loop and waits for it.
  void Call(const std::function<void()>& task);

 private:
  explicit LoopThread(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {}

  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

}  // namespace wyvern::shim
