// blk/testing/held_engine.h — an I/O engine that the test is: it sees each piece of I/O and says when
// and how it ends.
// Threads: Take and Finish from the test's; pieces end on the worker's loop, as with a real engine.
#pragma once

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "blk/blk_lane.h"

namespace wyvern::devices::testing {

class HeldIo {
 public:
  struct Piece {
    IoKind kind = IoKind::kRead;
    uint64_t offset = 0;
    uint64_t length = 0;  // of data or of the range
    std::vector<iovec> parts;
    std::function<void(int32_t result)> finish;

    // The transfer as the file would do it, or the first `limit` bytes of it; the result.
    int32_t Perform(FdRef file, uint64_t limit = UINT64_MAX) const {
      uint64_t done = 0;
      for (const iovec& part : parts) {
        const size_t piece = std::min<uint64_t>(part.iov_len, limit - done);
        const auto at = static_cast<off_t>(offset + done);
        WV_CHECK((kind == IoKind::kRead ? pread(file.get(), part.iov_base, piece, at)
                                        : pwrite(file.get(), part.iov_base, piece, at)) ==
                 static_cast<ssize_t>(piece));
        done += piece;
      }
      return static_cast<int32_t>(done);
    }
  };

  // Must live as long as the device.
  BlkLane::EngineFactory Factory() {
    return [this](EventLoop& loop, IoEngine::Done done) -> Result<std::unique_ptr<IoEngine>> {
      return std::make_unique<Engine>(*this, loop, std::move(done));
    };
  }

  // The next piece that the device has asked for, in order; aborts when none comes.
  Piece Take() {
    auto piece = TakeWithin(std::chrono::seconds(10));
    WV_CHECK(piece.has_value());
    return *std::move(piece);
  }

  std::optional<Piece> TakeWithin(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mu_);
    if (!arrived_.wait_for(lock, timeout, [this] { return !pieces_.empty(); })) {
      return std::nullopt;
    }
    Piece piece = std::move(pieces_.front());
    pieces_.pop_front();
    return piece;
  }

  size_t waiting() {
    const std::lock_guard lock(mu_);
    return pieces_.size();
  }

 private:
  class Engine final : public IoEngine {
   public:
    Engine(HeldIo& held, EventLoop& loop, Done done)
        : held_(held), loop_(loop), done_(std::move(done)) {}

    Result<> Watch() override { return {}; }

    void Submit(const IoRequest& request) override {
      Piece piece{.kind = request.kind,
                  .offset = request.offset,
                  .length = request.length,
                  .parts = {request.parts.begin(), request.parts.end()},
                  .finish = [this, tag = request.tag](int32_t result) {
                    loop_.Post([this, tag, result] {
                      done_(tag, result);
                      done_(kBatchEnd, 0);
                    });
                  }};
      for (const iovec& part : request.parts) {
        piece.length += part.iov_len;
      }
      const std::lock_guard lock(held_.mu_);
      held_.pieces_.push_back(std::move(piece));
      held_.arrived_.notify_all();
    }

    void Kick() override {}

   private:
    HeldIo& held_;
    EventLoop& loop_;
    const Done done_;
  };

  std::mutex mu_;
  std::condition_variable arrived_;
  std::deque<Piece> pieces_;  // guarded by mu_
};

}  // namespace wyvern::devices::testing
