#include "worker/device_worker.h"

#include <future>

#include "base/check.h"
#include "base/log.h"

namespace wyvern::devices {

Result<std::unique_ptr<DeviceWorker>> DeviceWorker::Start(const WorkerOptions& options) {
  WV_TRY(auto loop, EventLoop::Create());
  std::unique_ptr<DeviceWorker> worker(new DeviceWorker(std::move(loop)));
  EventLoop* running = worker->loop_.get();
  WV_TRY(worker->thread_, WorkerThread::Start(options.name.substr(0, 15),
                                              [running, hook = options.on_thread_start,
                                               name = options.name](const EventFd& /*stop*/) {
                                                if (hook) {
                                                  hook("worker");
                                                }
                                                if (auto ended = running->Run(); !ended) {
                                                  WV_ERROR("{}: event loop failed: {}", name,
                                                           ended.error().message());
                                                }
                                              }));
  return worker;
}

DeviceWorker::~DeviceWorker() {
  loop_->Stop();
  thread_.reset();
}

void DeviceWorker::Call(const EventLoop::Task& task) {
  WV_CHECK(!loop_->OnLoopThread());
  std::promise<void> done;
  loop_->Post([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace wyvern::devices
