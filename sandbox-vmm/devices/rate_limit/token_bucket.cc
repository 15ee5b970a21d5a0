#include "rate_limit/token_bucket.h"

#include <algorithm>
#include <utility>

namespace wyvern::devices {

namespace {

int64_t Nanoseconds(TokenBucket::Time time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

// later - earlier, where that may be more than an int64_t holds.
uint64_t Elapsed(TokenBucket::Time earlier, TokenBucket::Time later) {
  return static_cast<uint64_t>(Nanoseconds(later)) - static_cast<uint64_t>(Nanoseconds(earlier));
}

}  // namespace

TokenBucket::TokenBucket(const TokenBucketConfig& config, Time now) : last_(now) {
  Configure(config);
  level_ = full_;
}

void TokenBucket::Configure(const TokenBucketConfig& config) {
  const bool limit = config.size > 0 && config.refill_time.count() > 0;
  size_ = limit ? std::min(config.size, kMaxTokens) : 0;
  refill_ = limit ? static_cast<uint64_t>(config.refill_time.count()) : 0;
  full_ = Scaled{size_} * refill_;
  burst_size_ = limit ? config.one_time_burst : 0;
  burst_ = burst_size_;
}

void TokenBucket::Refill(Time now) {
  const Time last = std::exchange(last_, now);
  if (now <= last || level_ == full_) {
    return;
  }
  // Both fit: elapsed < 2^64 and size < 2^63; neither level nor full reaches 2^126.
  const Scaled gain = Scaled{Elapsed(last, now)} * size_;
  const Scaled room = full_ - level_;
  level_ = gain >= room ? full_ : level_ + gain;
}

bool TokenBucket::Ready(Time now) {
  if (!limited()) {
    return true;
  }
  Refill(now);
  return burst_ > 0 || level_ >= refill_;
}

void TokenBucket::Spend(uint64_t tokens, Time now) {
  if (!limited()) {
    return;
  }
  Refill(now);
  const uint64_t from_burst = std::min(tokens, burst_);
  burst_ -= from_burst;
  const Scaled taken = Scaled{std::min(tokens - from_burst, kMaxTokens)} * refill_;
  const Scaled lowest = -Scaled{kMaxTokens} * refill_;
  level_ = taken >= level_ - lowest ? lowest : level_ - taken;
}

void TokenBucket::Refund(uint64_t tokens) {
  if (!limited()) {
    return;
  }
  const Scaled given = Scaled{std::min(tokens, kMaxTokens)} * refill_;
  const Scaled room = full_ - level_;
  if (given <= room) {
    level_ += given;
    return;
  }
  level_ = full_;
  // It was the burst's.
  const auto left = static_cast<uint64_t>((given - room) / refill_);
  burst_ += std::min(left, burst_size_ - burst_);
}

TokenBucket::Time TokenBucket::ReadyAt(Time now) {
  if (Ready(now)) {
    return now;
  }
  const Scaled missing = refill_ - level_;
  const Scaled wait = (missing + size_ - 1) / size_;
  const Scaled at = Scaled{Nanoseconds(now)} + wait;
  if (at >= Scaled{Nanoseconds(Time::max())}) {
    return Time::max();
  }
  return Time(std::chrono::nanoseconds(static_cast<int64_t>(at)));
}

void TokenBucket::Update(const TokenBucketConfig& config, Time now) {
  const bool was_limited = limited();
  const int64_t kept = tokens(now);
  Configure(config);
  last_ = now;
  level_ = was_limited ? std::min(full_, Scaled{kept} * refill_) : full_;
}

int64_t TokenBucket::tokens(Time now) {
  if (!limited()) {
    return static_cast<int64_t>(kMaxTokens);
  }
  Refill(now);
  const Scaled whole = level_ / refill_;  // towards zero
  return static_cast<int64_t>(whole * refill_ > level_ ? whole - 1 : whole);
}

TokenBucketState TokenBucket::Save(Time now) {
  return {.tokens = limited() ? tokens(now) : 0, .burst_left = burst_};
}

void TokenBucket::Restore(const TokenBucketState& state, Time now) {
  if (state.version != TokenBucketState::kVersion || !limited()) {
    return;
  }
  const int64_t tokens = std::max(state.tokens, -static_cast<int64_t>(kMaxTokens));
  level_ = std::min(full_, Scaled{tokens} * refill_);
  burst_ = std::min(state.burst_left, burst_size_);
  last_ = now;
}

}  // namespace wyvern::devices
