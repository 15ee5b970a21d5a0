// base/worker_thread.h — a named thread with a stop event, joined in the destructor. No detached
// threads anywhere.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/event_fd.h"

namespace wyvern {

class WorkerThread {
 public:
  // `body` gets the stop event: it returns soon after that becomes readable. Name: at most 15 bytes
  // (pthread_setname_np).
  static Result<std::unique_ptr<WorkerThread>> Start(std::string name,
                                                     std::function<void(const EventFd& stop)> body);
  ~WorkerThread();
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  // Asks the body to return; idempotent; any thread.
  void RequestStop() const { stop_.Signal(); }

  // RequestStop and join; idempotent; not from the thread itself.
  void Join();

 private:
  explicit WorkerThread(EventFd stop) : stop_(std::move(stop)) {}

  EventFd stop_;
  std::thread thread_;
};

}  // namespace wyvern
