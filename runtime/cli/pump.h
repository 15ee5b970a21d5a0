// cli/pump.h — copies a process's stdio between its streams and ours until its output has ended.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/worker_thread.h"

namespace wyvern::cli {

// One direction, blocking copies on a thread of its own.
class Pump {
 public:
  ~Pump();
  Pump(const Pump&) = delete;
  Pump& operator=(const Pump&) = delete;
  // Copies `from` to `to` until `from` ends or `to` takes no more, then calls `on_end` (may be empty) on its thread.
  static Result<std::unique_ptr<Pump>> Start(const char* name, UniqueFd from, UniqueFd to,
                                             std::function<void()> on_end);
  // Waits for the end of `from`; from now on it ends also when nothing comes for `stall`: the process is gone, and a guest that keeps its
  // output open must not keep us. A slow reader of `to` has all the time it wants.
  void Finish(std::chrono::milliseconds stall);
  // Ends at once, also in the middle of a wait for input.
  void Abandon();

 private:
  Pump();
  struct State;
  std::unique_ptr<State> state_;
  std::unique_ptr<WorkerThread> thread_;
};

}  // namespace wyvern::cli
