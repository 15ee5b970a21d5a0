// fs/lock_table.h — POSIX locks of the guest as open-file-description locks of the host, and the
// requests that wait for a lock.
// Shape:   each owner (a process of the guest) has an open file description of its own per inode, so
//          that the host's kernel splits, merges and compares its ranges as it does a process'; they
//          count as open files of the export (HandleTable). A wait is a request that is tried
//          again: when a lock of this server goes, and by a timer with growing intervals for locks
//          of others. It occupies no thread. Nobody looks for deadlocks.
// Units:   lock ranges as FUSE has them: first and last byte.
// Threads: any.
// Trust:   owners and ranges are the guest's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "fs/export.h"
#include "fs/fuse_abi.h"
#include "fs/handle_table.h"

namespace wyvern::fs {

class LockTable {
 public:
  explicit LockTable(HandleTable& handles) : handles_(handles) {}

  ~LockTable() { Clear(); }

  LockTable(const LockTable&) = delete;
  LockTable& operator=(const LockTable&) = delete;

  // Takes, changes or gives up a lock without waiting; EAGAIN: somebody else has it. `open` gives
  // the owner's descriptor the first time, ENOLCK when the export may have no more of them.
  FsResult<> Set(const HandleRef& handle, uint64_t fh, const fuse_lk_in& args,
                 const std::function<FsResult<UniqueFd>()>& open);
  // The first lock in the way of this one, or F_UNLCK.
  FsResult<fuse_file_lock> Get(const HandleRef& handle, const fuse_lk_in& args) const;

  // What a closed file takes with it: the owner's locks on the inode (FLUSH), or those of owners
  // that began with this handle (RELEASE: an open-file-description lock of the guest has no FLUSH).
  // True if there were any.
  bool DropOwner(uint64_t node, uint64_t owner);
  bool DropHandle(uint64_t node, uint64_t fh);
  void DropExport(const Export* share);
  void Clear();

  size_t size() const;
  // Of which somebody has locks.
  std::unordered_set<uint64_t> nodes() const;

 private:
  struct Entry {
    std::shared_ptr<Export> share;
    UniqueFd fd;
    uint64_t fh = 0;
  };

  using Key = std::pair<uint64_t, uint64_t>;  // node, owner
  using Entries = std::map<Key, std::shared_ptr<const Entry>>;

  std::shared_ptr<const Entry> Find(const Key& key) const;
  FsResult<std::shared_ptr<const Entry>> FindOrAdd(const Key& key, const HandleRef& handle,
                                                   uint64_t fh,
                                                   const std::function<FsResult<UniqueFd>()>& open);
  // The entry is closed when the caller lets go of it, without the lock.
  std::shared_ptr<const Entry> EraseLocked(Entries::iterator it);

  HandleTable& handles_;
  mutable std::mutex mu_;
  Entries entries_;  // guarded by mu_
};

// Requests that wait. The server tries them; whoever gave a ticket answers them.
class LockWaits {
 public:
  using Clock = std::chrono::steady_clock;

  static constexpr std::chrono::milliseconds kFirstRetry{2};
  static constexpr std::chrono::milliseconds kLastRetry{256};

  // Enough to try it again: nothing of the guest's memory is read twice.
  struct Request {
    uint64_t unique = 0;
    uint64_t node = 0;
    fuse_lk_in args{};
  };

  struct Ended {
    uint64_t ticket = 0;
    uint64_t unique = 0;
    int error = 0;  // positive errno, 0: it has the lock
  };

  explicit LockWaits(size_t limit) : limit_(limit) {}

  // False at the limit.
  bool Add(uint64_t ticket, const Request& request);
  // False if it ended already: it is, or was, among the result of Retry.
  bool Drop(uint64_t ticket);
  // Not tried until Resume, which may be called for any; keeps its place. False if it ended already.
  bool Hold(uint64_t ticket);
  void Resume(uint64_t ticket);
  // INTERRUPT of the request `unique`: it ends with EINTR in the next Retry.
  void Interrupt(uint64_t unique);

  // Tries those whose time has come and the others of the same files, all when something changed.
  // Oldest first, one thread at a time.
  std::vector<Ended> Retry(const std::function<FsResult<>(const Request&)>& attempt);
  // Calls `arm` with how long it is until the next one is due; not at all when there is none. In one
  // step: who knew of less does not arm after who knew of more. `arm` must not call back.
  void ArmNext(const std::function<void(std::chrono::milliseconds)>& arm) const;

  // A lock went, or may have.
  void NoteChange() {
    if (count_.load(std::memory_order_relaxed) != 0) {
      changed_.store(true);
    }
  }

  bool changed() const { return changed_.load(std::memory_order_relaxed); }

  size_t size() const { return count_.load(std::memory_order_relaxed); }

 private:
  struct Wait {
    uint64_t ticket = 0;
    Request request;
    bool interrupted = false;
    bool held = false;
    std::chrono::milliseconds interval = kFirstRetry;
    Clock::time_point due;
  };

  Wait* FindLocked(uint64_t ticket);

  const size_t limit_;
  mutable std::mutex mu_;    // before the tables' own
  std::vector<Wait> waits_;  // in order of arrival; guarded by mu_
  std::atomic<size_t> count_{0};
  std::atomic<bool> changed_{false};
};

}  // namespace wyvern::fs
