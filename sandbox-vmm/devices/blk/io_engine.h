// blk/io_engine.h — asynchronous I/O of one file; the device knows no more of how it happens.
// Threads: made by any thread (one that may start threads); then everything on a lane's worker,
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

enum class IoKind : uint8_t {
  kRead,
  kWrite,
  kSyncWrite,  // on stable storage when done
  kFlush,
  kPunchHole,  // reads as zeroes, the storage is given back; the file's size stays
  kZeroRange,  // reads as zeroes, the storage stays; the file's size too
};

struct IoRequest {
  IoKind kind = IoKind::kRead;
  uint64_t offset = 0;             // bytes
  uint64_t length = 0;             // bytes, of kPunchHole and kZeroRange
  std::span<const iovec> parts{};  // valid until done; at most IOV_MAX
  uint32_t tag = 0;                // the caller's
};

class IoEngine {
 public:
  // Reported after each group of completions, so that one interrupt answers for all of them.
  static constexpr uint32_t kBatchEnd = ~uint32_t{0};

  // `result`: bytes moved (may be fewer than asked), 0 for what moves none, or -errno.
  using Done = std::function<void(uint32_t tag, int32_t result)>;

  // Preconditions: nothing is in flight.
  virtual ~IoEngine() = default;
  // On the worker's thread, once, before anything else: completions arrive through its loop.
  virtual Result<> Watch() = 0;
  // Queues a request; it may start only with Kick. Requests may end in any order, but `done` is not
  // called from here.
  virtual void Submit(const IoRequest& request) = 0;
  virtual void Kick() = 0;
};

}  // namespace wyvern::devices
