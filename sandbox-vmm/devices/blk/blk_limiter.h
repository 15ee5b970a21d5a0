// blk/blk_limiter.h — the rate limits of a disk, which its lanes share.
// Shape:   a lane asks before it takes a request and tells afterwards what that costs; refused, it
//          asks again later. Where several lanes wait for tokens, they take turns.
// Threads: any.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>

#include "rate_limit/rate_limiter.h"

namespace wyvern::devices {

class BlkLimiter {
 public:
  static constexpr unsigned kMaxLanes = 32;

  explicit BlkLimiter(const RateLimiterConfig& config)
      : limiter_(config, RateLimiter::Now()), limited_(limiter_.limited()) {}

  // False: nothing below needs to be called.
  bool limited() const { return limited_.load(std::memory_order_relaxed); }

  // Whether `lane` may take a request now; if not, `delay` says when to ask again.
  bool Ready(unsigned lane, std::chrono::milliseconds* delay) {
    const std::lock_guard lock(mu_);
    const RateLimiter::Time now = RateLimiter::Now();
    const uint32_t own = 1U << lane;
    if (!limiter_.Ready(now)) {
      waiting_ |= own;
      *delay = limiter_.Delay(now);
      return false;
    }
    // Tokens after a wait: the lane that had the last ones leaves these to the others, once.
    if ((waiting_ & own) != 0 && (waiting_ & ~own) != 0 && last_ == own) {
      last_ = 0;
      *delay = std::chrono::milliseconds(1);
      return false;
    }
    waiting_ &= ~own;
    last_ = own;
    return true;
  }

  void Spend(uint64_t bytes) {
    const std::lock_guard lock(mu_);
    limiter_.Spend(bytes, RateLimiter::Now());
  }

  // The lane waits no longer.
  void Leave(unsigned lane) {
    const std::lock_guard lock(mu_);
    waiting_ &= ~(1U << lane);
  }

  // Lanes that wait should ask again.
  void Update(const RateLimiterConfig& config) {
    const std::lock_guard lock(mu_);
    limiter_.Update(config, RateLimiter::Now());
    limited_.store(limiter_.limited(), std::memory_order_relaxed);
  }

  RateLimiterState Save() {
    const std::lock_guard lock(mu_);
    return limiter_.Save(RateLimiter::Now());
  }

  void Restore(const RateLimiterState& state) {
    const std::lock_guard lock(mu_);
    limiter_.Restore(state, RateLimiter::Now());
  }

 private:
  std::mutex mu_;
  RateLimiter limiter_;   // guarded by mu_
  uint32_t waiting_ = 0;  // guarded by mu_: a bit for each lane
  uint32_t last_ = 0;     // guarded by mu_: the lane that took the last request
  std::atomic<bool> limited_;
};

}  // namespace wyvern::devices
