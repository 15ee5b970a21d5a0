// blk/blk_task.h — a request on its way: which I/O comes next, and what the last one's result means.
// Shape:   short transfers go on where they stopped; ranges follow each other; zeroes are written
//          where the file's system cannot make them; a flush follows what must be stable but was not
//          written synchronously.
// Threads: a lane's worker.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "blk/blk_request.h"
#include "blk/io_engine.h"
#include "virtio/queue.h"

namespace wyvern::devices {

class BlkTask {
 public:
  // `stable`: what the request writes is on stable storage when it is answered (§5.2.6.2).
  // Preconditions: the request is IN, OUT or FLUSH, or has ranges, and there is something to do.
  void Begin(virtio::Chain chain, BlkRequest request, bool stable);

  // The next piece of I/O. Nothing: the chain's memory cannot be used, the request has failed.
  std::optional<IoRequest> Next();
  // Takes the result of what Next gave. True: there is more.
  bool Advance(int32_t result);

  bool busy() const { return chain_.has_value(); }

  const BlkRequest& request() const { return request_; }

  BlkStatus status() const { return status_; }

  // The errno of the host's file that ended the request; 0 with a status that is not OK: the file
  // ended before the disk.
  int error() const { return error_; }

  // The chain back, when the request has ended; the task may begin another.
  virtio::Chain Take();

 private:
  enum class Zeroing : uint8_t { kPunchHole, kZeroRange, kWrite };

  std::optional<IoRequest> NextData();
  IoRequest NextRange();
  bool AdvanceData(int32_t result);
  bool AdvanceRange(int32_t result);
  bool EnterRange();
  bool Fail(int32_t result);

  std::optional<virtio::Chain> chain_;
  BlkRequest request_;
  BlkStatus status_ = BlkStatus::kOk;
  int error_ = 0;
  bool stable_ = false;
  bool flushing_ = false;
  Zeroing zeroing_ = Zeroing::kPunchHole;
  uint32_t retries_ = 0;  // since the last progress
  size_t range_ = 0;      // the current one
  uint64_t done_ = 0;     // bytes, of the data or of the current range
  std::vector<iovec> parts_;
};

}  // namespace wyvern::devices
