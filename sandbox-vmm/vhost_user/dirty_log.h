// vhost_user/dirty_log.h — the log of a live migration: one bit per page of 4096 bytes that the
// back-end wrote.
// Spec:    vhost-user "Migration": log[page / 8] |= 1 << page % 8, by atomic operations, since the
//          front-end takes bits away at the same time.
// Errors:  Map: INVALID_ARGUMENT for an area that its file does not hold. A page beyond the log is
//          counted, not marked: the front-end sized it too small.
// Threads: Mark from any.
// Trust:   fd, size and offset are the front-end's. One that cuts the file short ends us by SIGBUS,
//          as it can with guest memory.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "base/event_fd.h"
#include "base/mapping.h"
#include "vhost_user/messages.h"

namespace wyvern::vhost_user {

class DirtyLog {
 public:
  static constexpr uint64_t kPage = 4096;  // VHOST_LOG_PAGE

  static Result<std::unique_ptr<DirtyLog>> Map(UniqueFd fd, const LogArea& area);

  // The pages of [address, address + length) are dirty. Called after they were written: a front-end
  // that takes the bit before then would copy what was there.
  void Mark(uint64_t address, uint64_t length);

  // Pages that lie beyond the log, since it was made.
  uint64_t missed() const { return missed_.load(std::memory_order_relaxed); }

 private:
  DirtyLog(Mapping mapping, uint64_t skip, uint64_t size)
      : mapping_(std::move(mapping)), skip_(skip), size_(size) {}

  const Mapping mapping_;
  const uint64_t skip_;  // bytes of the mapping before the log
  const uint64_t size_;  // of the log, in bytes
  std::atomic<uint64_t> missed_{0};
};

}  // namespace wyvern::vhost_user
