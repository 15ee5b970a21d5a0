#include "worker/device_worker.h"

namespace wyvern::devices {

Result<std::unique_ptr<LoopThread>> StartWorker(const WorkerOptions& options) {
  return LoopThread::Start(options.name, [hook = options.on_thread_start] {
    if (hook) {
      hook("worker");
    }
  });
}

}  // namespace wyvern::devices
