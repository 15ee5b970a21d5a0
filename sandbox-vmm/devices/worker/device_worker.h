// worker/device_worker.h — the thread behind a device: an event loop, started with a hook that
// narrows what it may do.
// Threads: Call and Post from any thread but the worker's own for Call.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/worker_thread.h"

namespace wyvern::devices {

struct WorkerOptions {
  // What logs call the device; its first 15 bytes name the threads.
  std::string name;
  // Runs first in each thread of the device ("worker", "io"): the jail installs its filters here.
  std::function<void(const char* kind)> on_thread_start;
};

class DeviceWorker {
 public:
  static Result<std::unique_ptr<DeviceWorker>> Start(const WorkerOptions& options);
  // Ends the thread; what was posted and has not run is dropped.
  ~DeviceWorker();
  DeviceWorker(const DeviceWorker&) = delete;
  DeviceWorker& operator=(const DeviceWorker&) = delete;

  // For callbacks that run on the worker.
  EventLoop& loop() { return *loop_; }

  void Post(EventLoop::Task task) { loop_->Post(std::move(task)); }

  // Runs `task` on the worker and waits for it.
  void Call(const EventLoop::Task& task);

 private:
  explicit DeviceWorker(std::unique_ptr<EventLoop> loop) : loop_(std::move(loop)) {}

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<WorkerThread> thread_;
};

}  // namespace wyvern::devices
