// blk/pool_engine.h — I/O by preadv2, pwritev2, fdatasync and fallocate in a few threads: where
// io_uring is not to be had.
// Threads: kThreads of its own, started with the device's hook ("io"); results reach the worker by
//          its loop.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "base/worker_thread.h"
#include "blk/io_engine.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

class PoolEngine final : public IoEngine {
 public:
  static constexpr int kThreads = 2;

  // `file` must outlive this.
  static Result<std::unique_ptr<IoEngine>> Create(EventLoop& loop, const WorkerOptions& options,
                                                  FdRef file, Done done);
  ~PoolEngine() override;
  PoolEngine(const PoolEngine&) = delete;
  PoolEngine& operator=(const PoolEngine&) = delete;

  Result<> Watch() override;
  void Submit(const IoRequest& request) override;
  void Kick() override;

 private:
  struct Completion {
    uint32_t tag = 0;
    int32_t result = 0;
  };

  PoolEngine(EventLoop& loop, FdRef file, Done done, EventFd wake);
  void RunThread();
  int32_t Perform(const IoRequest& request) const;
  void Report();

  EventLoop& loop_;
  const FdRef file_;
  const Done done_;
  const EventFd wake_;  // completions are there
  EventLoop::Token token_ = EventLoop::Token::kNone;
  std::vector<IoRequest> submitted_;   // worker's: until Kick
  std::vector<Completion> reporting_;  // worker's
  std::mutex mu_;
  std::condition_variable work_;
  std::deque<IoRequest> queue_;          // guarded by mu_
  std::vector<Completion> completions_;  // guarded by mu_
  bool stop_ = false;                    // guarded by mu_
  std::vector<std::unique_ptr<WorkerThread>> threads_;
};

}  // namespace wyvern::devices
