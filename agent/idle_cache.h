// agent/idle_cache.h — the page cache that containers do not use any more goes back to the kernel, and by free page reporting to the host.
// Shape:   a thread of its own looks at each container every few seconds (base/cache_reclaim.h): a reclaim blocks, and is nothing for the
//          event loop. It starts with the first container, and only where reclaim is asked for.
// Which:   kLimited takes those whose memory.max is a number at that moment, so that an update of the limit counts, too.
// Threads: Start, Add and Remove on the loop's thread; Remove waits for nothing: what runs ends after the piece that it is at.
// Trust:   directories are those that the kernel has told of; their contents are the kernel's.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/cache_reclaim.h"
#include "base/worker_thread.h"
#include "proto/agent.pb.h"

namespace wyvern::agent {

class IdleCache {
 public:
  explicit IdleCache(std::chrono::milliseconds period = CachePace::kPeriod) : period_(period) {}

  ~IdleCache();
  IdleCache(const IdleCache&) = delete;
  IdleCache& operator=(const IdleCache&) = delete;

  // Once, before the first container; without it, and for what is no mode, nothing is ever taken.
  void Start(v1::CacheReclaim mode) { mode_ = mode; }

  // `directory`: of the container's control group.
  void Add(const std::string& id, const std::string& directory);
  void Remove(const std::string& id);

 private:
  struct Group {
    explicit Group(const std::string& path) : directory(path), reclaim(path) {}

    const std::string directory;
    CacheReclaim reclaim;           // the thread's
    std::atomic<bool> gone{false};  // set on the loop's thread
  };

  using GroupPtr = std::shared_ptr<Group>;

  void Run(const EventFd& stop);
  // False: this kernel cannot do it.
  bool Round(const EventFd& stop);
  bool Wanted(const Group& group) const;

  const std::chrono::milliseconds period_;
  v1::CacheReclaim mode_ = v1::CACHE_RECLAIM_NEVER;
  std::mutex mu_;
  std::map<std::string, GroupPtr> groups_;  // guarded by mu_
  std::unique_ptr<WorkerThread> thread_;    // the loop's thread makes it
  bool failed_ = false;                     // no thread could be made; told once
};

}  // namespace wyvern::agent
