// blk/blk_disk.h — what the lanes of a disk have in common.
// Threads: any; what is not atomic does not change.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "blk/blk_limiter.h"
#include "blk/blk_request.h"

namespace wyvern::devices {

struct BlkDisk {
  BlkDisk(std::string disk_name, std::string disk_serial, bool is_read_only,
          const RateLimiterConfig& limits)
      : name(std::move(disk_name)),
        serial(std::move(disk_serial)),
        read_only(is_read_only),
        limiter(limits) {}

  const std::string name;  // for logs
  const std::string serial;
  const bool read_only;
  std::atomic<uint64_t> sectors{0};
  std::atomic<bool> writeback{true};  // what the driver set, where it may
  BlkLimiter limiter;

  // Whether a write that a driver with these features sends now must be on stable storage when it
  // is answered (VIRTIO §5.2.6.2, cases 1 and 2).
  bool WritesAreStable(uint64_t features) const {
    return (features & kBlkConfigWce) != 0 ? !writeback.load(std::memory_order_relaxed)
                                           : (features & kBlkFlush) == 0;
  }
};

// Of one lane; written by its worker.
struct BlkCounters {
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> writes{0};
  std::atomic<uint64_t> flushes{0};
  std::atomic<uint64_t> discards{0};
  std::atomic<uint64_t> write_zeroes{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> bytes_written{0};
  std::atomic<uint64_t> io_errors{0};
  std::atomic<uint64_t> bad_requests{0};
  std::atomic<uint64_t> throttled{0};
};

}  // namespace wyvern::devices
