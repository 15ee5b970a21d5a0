// agent/lane.h — work that blocks in the kernel, beside the event loop: one thread for each kind of it, none for each call.
// Why:     a write to sysfs returns when a driver has probed or a CPU has started, which may be never. The kernel does one such thing
//          of a kind at a time, so more threads would only wait for its lock.
// Shape:   jobs go round: each does a part of its work and says whether there is more to do now, or only something to wait for. So one
//          that waits for a device holds no other up. A part that is begun is not ended by us.
// Deadlines: kept by the loop, which goes on when the lane's thread is stuck: the job is answered then, and not continued.
// Threads: the constructor, Submit and the destructor on the loop's thread; Wake on any. The thread starts with the first job, and
//          sleeps without one. The destructor waits for it: in a guest the lanes live as long as the agent.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/worker_thread.h"

namespace wyvern::agent {

class Job {
 public:
  enum class Progress { kDone, kMore, kWait };

  virtual ~Job() = default;
  // A part of the work, on the lane's thread. kDone: it has been answered.
  virtual Progress Step() = 0;
  // The deadline has come: answers with what is known. On the loop's thread, maybe while Step runs.
  virtual void Expire() = 0;
};

class Lane {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  static constexpr size_t kMaxJobs = 64;

  // At most 15 bytes of name.
  Lane(EventLoop& loop, std::string name);
  ~Lane();
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // An error takes nothing: RESOURCE_EXHAUSTED with kMaxJobs in it, or no thread can be made.
  Result<> Submit(std::shared_ptr<Job> job, TimePoint deadline);
  // Something has changed: jobs that wait look again at once.
  void Wake();

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;

  Result<> Start();
  void Run(FdRef stop);
  // One part of each job. False: all of them wait.
  bool StepAll(const std::vector<EntryPtr>& entries);
  void Forget(const EntryPtr& entry);

  EventLoop& loop_;
  const std::string name_;
  std::unique_ptr<EventFd> wake_;
  std::mutex mu_;
  std::vector<EntryPtr> entries_;  // guarded by mu_
  std::atomic<bool> stopping_{false};
  std::unique_ptr<WorkerThread> thread_;
};

}  // namespace wyvern::agent
