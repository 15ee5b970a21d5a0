// worker/device_worker.h — the thread behind a device: an event loop, started with a hook that
// narrows what it may do.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/loop_thread.h"

namespace wyvern::devices {

struct WorkerOptions {
  // What logs call the device; its first 15 bytes name the threads.
  std::string name;
  // Runs first in each thread of the device ("worker", "io"): the jail installs its filters here.
  std::function<void(const char* kind)> on_thread_start;
};

Result<std::unique_ptr<LoopThread>> StartWorker(const WorkerOptions& options);

}  // namespace wyvern::devices
