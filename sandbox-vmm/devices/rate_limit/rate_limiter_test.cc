#include "rate_limit/rate_limiter.h"

#include <gtest/gtest.h>

namespace wyvern::devices {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using LimiterTime = RateLimiter::Time;

constexpr LimiterTime kStart(seconds(10));

TEST(RateLimiterTest, WithoutLimitsNothingIsHeldUp) {
  RateLimiter limiter;
  EXPECT_FALSE(limiter.limited());
  limiter.Spend(UINT64_MAX, kStart);
  EXPECT_TRUE(limiter.Ready(kStart));
  EXPECT_EQ(limiter.Delay(kStart), milliseconds(0));
}

TEST(RateLimiterTest, BothLimitsMustLetARequestGo) {
  RateLimiter limiter({.bandwidth = {.size = 1000, .refill_time = seconds(1)},
                       .ops = {.size = 2, .refill_time = milliseconds(20)}},
                      kStart);
  EXPECT_TRUE(limiter.limited());
  limiter.Spend(10, kStart);
  limiter.Spend(10, kStart);
  EXPECT_FALSE(limiter.Ready(kStart)) << "two requests";
  EXPECT_EQ(limiter.ReadyAt(kStart), kStart + milliseconds(10));
  const LimiterTime later = kStart + milliseconds(10);
  EXPECT_TRUE(limiter.Ready(later));
  limiter.Spend(2000, later);
  EXPECT_EQ(limiter.ReadyAt(later), later + milliseconds(1011)) << "1010 bytes in debt";
}

TEST(RateLimiterTest, OneLimitAloneIsEnough) {
  RateLimiter bytes({.bandwidth = {.size = 10, .refill_time = seconds(1)}}, kStart);
  bytes.Spend(10, kStart);
  EXPECT_FALSE(bytes.Ready(kStart));
  RateLimiter requests({.ops = {.size = 1, .refill_time = seconds(1)}}, kStart);
  requests.Spend(1 << 20, kStart);
  EXPECT_FALSE(requests.Ready(kStart));
}

TEST(RateLimiterTest, DelayIsWholeMillisecondsAndNeverTooShort) {
  RateLimiter limiter({.ops = {.size = 1, .refill_time = nanoseconds(1500001)}}, kStart);
  limiter.Spend(0, kStart);
  const milliseconds delay = limiter.Delay(kStart);
  EXPECT_EQ(delay, milliseconds(2));
  EXPECT_TRUE(limiter.Ready(kStart + delay));
}

TEST(RateLimiterTest, DelayIsBounded) {
  RateLimiter limiter({.bandwidth = {.size = 1, .refill_time = nanoseconds::max()}}, kStart);
  limiter.Spend(UINT64_MAX, kStart);
  EXPECT_EQ(limiter.ReadyAt(kStart), LimiterTime::max());
  for (const LimiterTime now : {LimiterTime::min(), LimiterTime(), kStart}) {
    EXPECT_EQ(limiter.Delay(now), RateLimiter::kMaxDelay);
  }
  RateLimiter late({.ops = {.size = 1, .refill_time = seconds(1)}}, LimiterTime::max());
  late.Spend(1, LimiterTime::max());
  EXPECT_EQ(late.Delay(LimiterTime::max()), milliseconds(0)) << "there is no later";
}

TEST(RateLimiterTest, RefundUndoesASpend) {
  RateLimiter limiter({.bandwidth = {.size = 100, .refill_time = seconds(1)},
                       .ops = {.size = 1, .refill_time = seconds(1)}},
                      kStart);
  limiter.Spend(500, kStart);
  EXPECT_FALSE(limiter.Ready(kStart));
  limiter.Refund(500);
  EXPECT_TRUE(limiter.Ready(kStart));
}

TEST(RateLimiterTest, LimitsChangeAtRunTime) {
  RateLimiter limiter({.ops = {.size = 1, .refill_time = hours(1)}}, kStart);
  limiter.Spend(1, kStart);
  EXPECT_EQ(limiter.Delay(kStart), milliseconds(hours(1)));
  limiter.Update({.ops = {.size = 1, .refill_time = milliseconds(5)}}, kStart);
  EXPECT_EQ(limiter.Delay(kStart), milliseconds(5));
  limiter.Update({}, kStart);
  EXPECT_TRUE(limiter.Ready(kStart));
}

TEST(RateLimiterTest, EvenBandwidthIsThatRateInTenths) {
  EXPECT_FALSE(RateLimiter(EvenBandwidth(0), kStart).limited());
  for (const uint64_t rate : {1ULL, 7ULL, 10ULL, 15ULL, 125ULL, 1'250'000ULL, 125'000'000'000ULL}) {
    const TokenBucketConfig config = EvenBandwidth(rate).bandwidth;
    EXPECT_EQ(config.size, std::max<uint64_t>(rate / 10, 1));
    TokenBucket bucket(config, kStart);
    bucket.Spend(config.size + rate * 100, kStart);  // a debt of 100 seconds
    EXPECT_NEAR(std::chrono::duration<double>(bucket.ReadyAt(kStart) - kStart).count(), 100, 1.1)
        << rate;
  }
  EXPECT_TRUE(RateLimiter(EvenBandwidth(UINT64_MAX), kStart).limited());
}

TEST(RateLimiterTest, StateMovesToAnotherLimiter) {
  const RateLimiterConfig config{.bandwidth = {.size = 100, .refill_time = seconds(1)},
                                 .ops = {.size = 5, .refill_time = seconds(1)}};
  RateLimiter limiter(config, kStart);
  limiter.Spend(300, kStart);
  RateLimiter other(config, kStart + hours(1));
  other.Restore(limiter.Save(kStart), kStart + hours(1));
  EXPECT_EQ(other.ReadyAt(kStart + hours(1)) - (kStart + hours(1)),
            limiter.ReadyAt(kStart) - kStart);
  RateLimiterState unknown = limiter.Save(kStart);
  unknown.version = 9;
  RateLimiter fresh(config, kStart);
  fresh.Restore(unknown, kStart);
  EXPECT_TRUE(fresh.Ready(kStart));
}

}  // namespace
}  // namespace wyvern::devices
