#include "base/worker_thread.h"

#include <pthread.h>

#include "base/check.h"

namespace wyvern {

Result<std::unique_ptr<WorkerThread>> WorkerThread::Start(
    std::string name, std::function<void(const EventFd& stop)> body) {
  WV_CHECK(name.size() <= 15);
  WV_TRY(EventFd stop, EventFd::Create());
  std::unique_ptr<WorkerThread> worker(new WorkerThread(std::move(stop)));
  worker->thread_ =
      std::thread([self = worker.get(), name = std::move(name), body = std::move(body)] {
        pthread_setname_np(pthread_self(), name.c_str());
        body(self->stop_);
      });
  return worker;
}

WorkerThread::~WorkerThread() {
  Join();
}

void WorkerThread::Join() {
  if (thread_.joinable()) {
    RequestStop();
    thread_.join();
  }
}

}  // namespace wyvern
