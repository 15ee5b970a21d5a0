#include "rate_limit/rate_limiter.h"

#include <algorithm>

namespace wyvern::devices {

RateLimiterConfig EvenBandwidth(uint64_t bytes_per_second) {
  if (bytes_per_second == 0) {
    return {};
  }
  const uint64_t rate = std::min(bytes_per_second, TokenBucket::kMaxTokens);
  const uint64_t size = std::max<uint64_t>(rate / 10, 1);
  return {.bandwidth = {.size = size,
                        .refill_time = std::chrono::nanoseconds(static_cast<int64_t>(
                            static_cast<__int128>(size) * 1'000'000'000 / rate))}};
}

bool RateLimiter::Ready(Time now) {
  // Both are asked, so that both have seen this time.
  const bool bandwidth = bandwidth_.Ready(now);
  const bool ops = ops_.Ready(now);
  return bandwidth && ops;
}

void RateLimiter::Spend(uint64_t bytes, Time now) {
  bandwidth_.Spend(bytes, now);
  ops_.Spend(1, now);
}

void RateLimiter::Refund(uint64_t bytes) {
  bandwidth_.Refund(bytes);
  ops_.Refund(1);
}

RateLimiter::Time RateLimiter::ReadyAt(Time now) {
  return std::max(bandwidth_.ReadyAt(now), ops_.ReadyAt(now));
}

std::chrono::milliseconds RateLimiter::Delay(Time now) {
  const Time at = ReadyAt(now);
  // at - now need not fit its type.
  if (at.time_since_epoch() / 2 - now.time_since_epoch() / 2 >= kMaxDelay / 2) {
    return kMaxDelay;
  }
  return std::chrono::ceil<std::chrono::milliseconds>(at - now);
}

void RateLimiter::Update(const RateLimiterConfig& config, Time now) {
  bandwidth_.Update(config.bandwidth, now);
  ops_.Update(config.ops, now);
}

RateLimiterState RateLimiter::Save(Time now) {
  return {.bandwidth = bandwidth_.Save(now), .ops = ops_.Save(now)};
}

void RateLimiter::Restore(const RateLimiterState& state, Time now) {
  if (state.version != RateLimiterState::kVersion) {
    return;
  }
  bandwidth_.Restore(state.bandwidth, now);
  ops_.Restore(state.ops, now);
}

}  // namespace wyvern::devices
