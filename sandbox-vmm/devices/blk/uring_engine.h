// blk/uring_engine.h — I/O by io_uring, on a ring that was made before seccomp forbids to make any.
// Shape:   a ring can read, write, fsync and fallocate the file in its one registered slot, and
//          nothing else (IORING_REGISTER_RESTRICTIONS): a ring is a way around seccomp otherwise.
#pragma once

#include <liburing.h>

#include <memory>

#include "blk/io_engine.h"

namespace wyvern::devices {

// A restricted ring without a file. Make it early; give it to a device later, also after filters
// are installed (io_uring_register and
// io_uring_enter must then be allowed in the control and device threads). A device leaves it idle: when that is gone, it is good for another.
class IoRing {
 public:
  static constexpr unsigned kEntries = 256;

  // An error when the host has io_uring disabled or lacks restrictions (Linux < 5.10): use the
  // thread pool then.
  static Result<std::unique_ptr<IoRing>> Create();
  ~IoRing();
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;

  // The file that requests go to; the kernel keeps its own reference.
  Result<> SetFile(FdRef file);
  // Lets go of it. Precondition: nothing is in flight.
  Result<> ClearFile();

  io_uring* get() { return &ring_; }

 private:
  IoRing() = default;
  io_uring ring_{};
};

class UringEngine final : public IoEngine {
 public:
  UringEngine(EventLoop& loop, std::shared_ptr<IoRing> ring, Done done);
  ~UringEngine() override;
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;

  Result<> Watch() override;
  void Submit(const IoRequest& request) override;
  void Kick() override;

 private:
  void Reap();

  EventLoop& loop_;
  const std::shared_ptr<IoRing> ring_;
  const Done done_;
  EventLoop::Token token_ = EventLoop::Token::kNone;
  EventLoop::Token retry_ = EventLoop::Token::kNone;
};

}  // namespace wyvern::devices
