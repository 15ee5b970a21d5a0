// rate_limit/token_bucket.h — a token bucket: arithmetic only, no clock and no I/O of its own.
// Shape:   holds at most `size` tokens and gains `size` per `refill_time`, evenly. Beside it lies a
//          one-time burst, spent first and never refilled.
// Debt:    a bucket with a whole token in it lets ONE request of any size through; what the request
//          takes beyond the tokens is debt, which time pays before the next may go. So a request
//          larger than the bucket passes, none starves, and who asks need not know the size
//          beforehand (a packet is not measured before it is read from its tap). The rate is kept
//          exactly; a burst exceeds the bucket by less than one request.
// Units:   tokens are bytes or requests, the owner's choice. The level is kept in tokens × refill
//          nanoseconds, 128 bits wide: each nanosecond adds `size`, nothing is ever rounded.
// Errors:  none: configurations that make no sense mean "no limit", arithmetic saturates.
// Threads: a value; one thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace wyvern::devices {

// `size` 0 or `refill_time` not positive: no limit. Sizes above TokenBucket::kMaxTokens count as
// that.
struct TokenBucketConfig {
  uint64_t size = 0;            // tokens
  uint64_t one_time_burst = 0;  // tokens; of no meaning without a limit
  std::chrono::nanoseconds refill_time{0};

  bool operator==(const TokenBucketConfig&) const = default;
};

// What a bucket holds, for snapshots; the configuration is its owner's and not in here. Time while
// nothing ran gives no tokens.
struct TokenBucketState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  int64_t tokens = 0;  // negative: debt
  uint64_t burst_left = 0;
};

class TokenBucket {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr uint64_t kMaxTokens = INT64_MAX;

  // Without a limit.
  TokenBucket() = default;
  // Full.
  TokenBucket(const TokenBucketConfig& config, Time now);

  bool limited() const { return full_ > 0; }

  // One request may go now. `now` may repeat or go backwards: such time gives nothing.
  bool Ready(Time now);
  // Takes the tokens of a request that goes, into debt if need be.
  void Spend(uint64_t tokens, Time now);
  // Gives back what a request took that did not happen after all. Neither the bucket nor the burst
  // overflows.
  void Refund(uint64_t tokens);
  // The first time at which Ready is true if nothing is spent until then; `now` if it is already.
  // Time::max(): not within the clock's range.
  Time ReadyAt(Time now);

  // A new limit. What is in the bucket stays, up to the new size; debt stays too; the burst is the
  // new one's. A bucket that had no limit starts full.
  void Update(const TokenBucketConfig& config, Time now);

  // Whole tokens without the burst, rounded down; negative: debt. kMaxTokens when there is no limit.
  int64_t tokens(Time now);

  uint64_t burst_left() const { return burst_; }

  TokenBucketState Save(Time now);
  // More than the configuration allows is cut to that; another version is ignored.
  void Restore(const TokenBucketState& state, Time now);

 private:
  using Scaled = __int128;  // tokens × refill nanoseconds; |level_| < 2^126

  void Configure(const TokenBucketConfig& config);
  void Refill(Time now);

  Scaled level_ = 0;
  Scaled full_ = 0;      // size_ × refill_; 0: no limit
  uint64_t size_ = 0;    // at most kMaxTokens
  uint64_t refill_ = 0;  // nanoseconds, at most 2^63 - 1; also one token, scaled
  uint64_t burst_ = 0;
  uint64_t burst_size_ = 0;
  Time last_{};
};

}  // namespace wyvern::devices
