// rate_limit/rate_limiter.h — bytes and requests per time: two token buckets, both of which must let
// a request go.
// Shape:   no timer and no clock: the owner passes `now`, and when Ready says no it stops taking
//          requests and arms its own loop's timer for ReadyAt (EventLoop::After).
// Usage:   before each request   if (!limiter.Ready(now)) { arm a timer for limiter.ReadyAt(now); }
//          for each that went    limiter.Spend(bytes, now);
//          `now` may be read once for a batch.
// Threads: a value; the device's worker owns it, updates are posted there.
#pragma once

#include <chrono>
#include <cstdint>

#include "rate_limit/token_bucket.h"

namespace wyvern::devices {

struct RateLimiterConfig {
  TokenBucketConfig bandwidth{};  // bytes
  TokenBucketConfig ops{};        // requests

  bool operator==(const RateLimiterConfig&) const = default;
};

// That many bytes a second, 0: no limit. A tenth of a second's worth may come at once: what a program sees is even, and a request that is larger
// than that waits all the longer for the next (TokenBucket, Debt).
RateLimiterConfig EvenBandwidth(uint64_t bytes_per_second);

struct RateLimiterState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  TokenBucketState bandwidth{};
  TokenBucketState ops{};
};

class RateLimiter {
 public:
  using Time = TokenBucket::Time;

  // Without limits.
  RateLimiter() = default;

  RateLimiter(const RateLimiterConfig& config, Time now)
      : bandwidth_(config.bandwidth, now), ops_(config.ops, now) {}

  // The clock that an owner uses; a test may use any other.
  static Time Now() { return std::chrono::steady_clock::now(); }

  // False: every request may go, and the clock need not be read.
  bool limited() const { return bandwidth_.limited() || ops_.limited(); }

  // One request of any size may go now.
  bool Ready(Time now);
  // A request of `bytes` goes.
  void Spend(uint64_t bytes, Time now);
  // It did not happen after all.
  void Refund(uint64_t bytes);
  // When Ready will be true if nothing is spent until then.
  Time ReadyAt(Time now);
  // ReadyAt for EventLoop::After: rounded up to milliseconds, so that a timer never comes too early,
  // and at most kMaxDelay, so that an owner looks again now and then.
  std::chrono::milliseconds Delay(Time now);

  // New limits at run time; see TokenBucket::Update.
  void Update(const RateLimiterConfig& config, Time now);

  RateLimiterState Save(Time now);
  void Restore(const RateLimiterState& state, Time now);

  static constexpr std::chrono::milliseconds kMaxDelay = std::chrono::hours(1);

 private:
  TokenBucket bandwidth_;
  TokenBucket ops_;
};

}  // namespace wyvern::devices
