// blk/io_engine.h — asynchronous reads, writes and flushes of one file; the device knows no more of
// how they happen.
// Threads: made by any thread (one that may start threads); then everything on the device's worker,
//          `done` too.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/fd.h"

namespace wyvern::devices {

enum class IoKind : uint8_t { kRead, kWrite, kSyncWrite, kFlush };

struct IoRequest {
  IoKind kind = IoKind::kRead;
  uint64_t offset = 0;           // bytes
  std::span<const iovec> parts;  // valid until done; at most IOV_MAX
  uint32_t tag = 0;              // the caller's
};

class IoEngine {
 public:
  // Reported after each group of completions, so that one interrupt answers for all of them.
  static constexpr uint32_t kBatchEnd = ~uint32_t{0};

  // `result`: bytes moved (may be fewer than asked), 0 for a flush, or -errno.
  using Done = std::function<void(uint32_t tag, int32_t result)>;

  virtual ~IoEngine() = default;
  // On the worker's thread, once, before anything else: completions arrive through its loop.
  virtual Result<> Watch() = 0;
  // Queues a request; it may start only with Kick. Requests may end in any order.
  virtual void Submit(const IoRequest& request) = 0;
  virtual void Kick() = 0;
  // Blocks until at least one request is done and reports what is. Preconditions: something is in
  // flight.
  virtual void Wait() = 0;
};

}  // namespace wyvern::devices
