#include "rate_limit/token_bucket.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace wyvern::devices {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using Time = TokenBucket::Time;

constexpr uint64_t kHuge = std::numeric_limits<uint64_t>::max();
constexpr nanoseconds kLongest = nanoseconds::max();
constexpr Time kFirst = Time::min();
constexpr Time kLast = Time::max();

Time At(nanoseconds time) {
  return Time(time);
}

TEST(TokenBucketTest, WithoutLimitEverythingGoes) {
  for (const TokenBucketConfig& config :
       {TokenBucketConfig{}, TokenBucketConfig{.size = 0, .refill_time = seconds(1)},
        TokenBucketConfig{.size = 10, .refill_time = seconds(0)},
        TokenBucketConfig{.size = 10, .refill_time = seconds(-1)}}) {
    TokenBucket bucket(config, At(seconds(1)));
    EXPECT_FALSE(bucket.limited());
    bucket.Spend(kHuge, At(seconds(1)));
    EXPECT_TRUE(bucket.Ready(At(seconds(1))));
    EXPECT_EQ(bucket.ReadyAt(At(seconds(1))), At(seconds(1)));
  }
}

TEST(TokenBucketTest, StartsFullAndRefillsEvenly) {
  TokenBucket bucket({.size = 1000, .refill_time = seconds(1)}, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 1000);
  bucket.Spend(1000, At(seconds(0)));
  EXPECT_FALSE(bucket.Ready(At(seconds(0))));
  EXPECT_EQ(bucket.ReadyAt(At(seconds(0))), At(milliseconds(1)));
  EXPECT_FALSE(bucket.Ready(At(nanoseconds(999999))));
  EXPECT_TRUE(bucket.Ready(At(milliseconds(1))));
  EXPECT_EQ(bucket.tokens(At(milliseconds(500))), 500);
  EXPECT_EQ(bucket.tokens(At(hours(9))), 1000) << "never more than it holds";
}

TEST(TokenBucketTest, SmallRequestsNeverMakeDebt) {
  TokenBucket ops({.size = 3, .refill_time = milliseconds(30)}, At(seconds(0)));
  int done = 0;
  for (int64_t now = 0; now <= 1000; ++now) {
    while (ops.Ready(At(milliseconds(now)))) {
      ops.Spend(1, At(milliseconds(now)));
      EXPECT_GE(ops.tokens(At(milliseconds(now))), 0);
      ++done;
    }
  }
  EXPECT_EQ(done, 3 + 100) << "the bucket, and one per 10 ms";
}

TEST(TokenBucketTest, RequestLargerThanTheBucketGoesIntoDebtThatTimePays) {
  TokenBucket bucket({.size = 1000, .refill_time = seconds(1)}, At(seconds(0)));
  EXPECT_TRUE(bucket.Ready(At(seconds(0))));
  bucket.Spend(5000, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), -4000);
  EXPECT_EQ(bucket.ReadyAt(At(seconds(0))), At(milliseconds(4001)));
  EXPECT_FALSE(bucket.Ready(At(milliseconds(4000))));
  EXPECT_TRUE(bucket.Ready(At(milliseconds(4001))));
}

TEST(TokenBucketTest, StreamOfLargeRequestsKeepsTheRate) {
  // Refilling while the debt is waited for would let twice as much pass.
  TokenBucket bucket({.size = 1000, .refill_time = milliseconds(100)}, At(seconds(0)));
  uint64_t moved = 0;
  for (Time now = At(seconds(0)); now < At(seconds(100)); now = bucket.ReadyAt(now)) {
    bucket.Spend(3000, now);
    moved += 3000;
  }
  EXPECT_LE(moved, 1000000U + 1000 + 3000);
  EXPECT_GE(moved, 1000000U);
}

TEST(TokenBucketTest, NothingIsLostToRounding) {
  // 7 tokens per 13 ns, asked at every nanosecond, for whatever is there.
  TokenBucket bucket({.size = 7, .refill_time = nanoseconds(13)}, At(seconds(0)));
  uint64_t moved = 0;
  for (int64_t now = 0; now <= int64_t{13} * 1000; ++now) {
    while (bucket.Ready(At(nanoseconds(now)))) {
      bucket.Spend(1, At(nanoseconds(now)));
      ++moved;
    }
  }
  EXPECT_EQ(moved, 7U + 7 * 1000);
}

TEST(TokenBucketTest, BurstIsSpentFirstAndOnce) {
  TokenBucket bucket({.size = 100, .one_time_burst = 500, .refill_time = seconds(1)},
                     At(seconds(0)));
  bucket.Spend(400, At(seconds(0)));
  EXPECT_EQ(bucket.burst_left(), 100U);
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 100);
  bucket.Spend(150, At(seconds(0)));
  EXPECT_EQ(bucket.burst_left(), 0U);
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 50);
  EXPECT_EQ(bucket.tokens(At(hours(1))), 100);
  EXPECT_EQ(bucket.burst_left(), 0U);
}

TEST(TokenBucketTest, BurstLetsRequestsGoThatTheBucketWouldHold) {
  TokenBucket bucket({.size = 100, .one_time_burst = 10, .refill_time = seconds(1)},
                     At(seconds(0)));
  bucket.Spend(109, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 1);
  TokenBucket other({.size = 100, .one_time_burst = 1000, .refill_time = seconds(1)},
                    At(seconds(0)));
  other.Spend(500, At(seconds(0)));
  EXPECT_TRUE(other.Ready(At(seconds(0))));
}

TEST(TokenBucketTest, TimeThatGoesBackwardsGivesAndTakesNothing) {
  TokenBucket bucket({.size = 1000, .refill_time = seconds(1)}, At(seconds(100)));
  bucket.Spend(1000, At(seconds(100)));
  EXPECT_EQ(bucket.tokens(At(seconds(50))), 0);
  EXPECT_EQ(bucket.tokens(At(seconds(50))), 0);
  EXPECT_EQ(bucket.tokens(At(milliseconds(50500))), 500) << "and goes on from there";
  EXPECT_EQ(bucket.tokens(kFirst), 500);
  EXPECT_EQ(bucket.tokens(kLast), 1000);
}

TEST(TokenBucketTest, RefundGivesBackWhatWasTaken) {
  TokenBucket bucket({.size = 100, .one_time_burst = 50, .refill_time = seconds(1)},
                     At(seconds(0)));
  bucket.Spend(120, At(seconds(0)));
  bucket.Refund(120);
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 100);
  EXPECT_EQ(bucket.burst_left(), 50U);
  bucket.Refund(kHuge);
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 100);
  EXPECT_EQ(bucket.burst_left(), 50U);
}

TEST(TokenBucketTest, UpdateKeepsTokensAndDebt) {
  TokenBucket bucket({.size = 1000, .refill_time = seconds(1)}, At(seconds(0)));
  bucket.Spend(400, At(seconds(0)));
  bucket.Update({.size = 2000, .refill_time = milliseconds(500)}, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 600) << "no fresh bucket";
  bucket.Update({.size = 100, .refill_time = seconds(1)}, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 100);
  bucket.Spend(300, At(seconds(0)));
  bucket.Update({.size = 1000, .refill_time = seconds(1)}, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), -200);
  bucket.Update({}, At(seconds(0)));
  EXPECT_TRUE(bucket.Ready(At(seconds(0))));
  bucket.Update({.size = 10, .one_time_burst = 3, .refill_time = seconds(1)}, At(seconds(0)));
  EXPECT_EQ(bucket.tokens(At(seconds(0))), 10) << "a new limit starts full";
  EXPECT_EQ(bucket.burst_left(), 3U);
}

TEST(TokenBucketTest, StateMovesToAnotherBucket) {
  const TokenBucketConfig config{.size = 1000, .one_time_burst = 70, .refill_time = seconds(1)};
  TokenBucket bucket(config, At(seconds(0)));
  bucket.Spend(1570, At(seconds(0)));
  const TokenBucketState state = bucket.Save(At(seconds(0)));
  EXPECT_EQ(state.tokens, -500);
  TokenBucket other(config, At(hours(5)));
  other.Restore(state, At(hours(5)));
  EXPECT_EQ(other.tokens(At(hours(5))), -500);
  EXPECT_EQ(other.burst_left(), 0U);

  other.Restore({.tokens = INT64_MAX, .burst_left = kHuge}, At(hours(5)));
  EXPECT_EQ(other.tokens(At(hours(5))), 1000);
  EXPECT_EQ(other.burst_left(), 70U);
  other.Restore({.tokens = INT64_MIN}, At(hours(5)));
  EXPECT_EQ(other.tokens(At(hours(5))), -INT64_MAX);
  other.Restore({.version = 2, .tokens = 5}, At(hours(5)));
  EXPECT_EQ(other.tokens(At(hours(5))), -INT64_MAX) << "another version is not understood";
}

TEST(TokenBucketTest, HugeValuesSaturate) {
  for (const uint64_t size : {uint64_t{1}, uint64_t{1} << 62U, kHuge}) {
    for (const nanoseconds refill : {nanoseconds(1), nanoseconds(seconds(1)), kLongest}) {
      TokenBucket bucket({.size = size, .one_time_burst = 5, .refill_time = refill}, kFirst);
      const auto held = static_cast<int64_t>(std::min(size, TokenBucket::kMaxTokens));
      EXPECT_EQ(bucket.tokens(kFirst), held);
      for (int i = 0; i < 5; ++i) {
        bucket.Spend(kHuge, kFirst);
        EXPECT_GE(bucket.tokens(kFirst), -INT64_MAX);
        EXPECT_LE(bucket.tokens(kFirst), held);
      }
      EXPECT_FALSE(bucket.Ready(kFirst));
      const Time at = bucket.ReadyAt(kFirst);
      EXPECT_GT(at, kFirst);
      if (at < kLast) {
        EXPECT_TRUE(bucket.Ready(at));
      }
      bucket.Refund(kHuge);
      bucket.Refund(kHuge);
      EXPECT_EQ(bucket.tokens(kFirst), held);
      bucket.Update({.size = kHuge, .refill_time = kLongest}, kLast);
      EXPECT_LE(bucket.tokens(kLast), INT64_MAX);
    }
  }
}

TEST(TokenBucketTest, ReadyAtIsTheFirstInstantThatIsReady) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20000; ++i) {
    const TokenBucketConfig config{.size = 1 + random() % (uint64_t{1} << (random() % 63)),
                                   .refill_time = nanoseconds(1 + random() % 1000000000000)};
    const Time start = At(nanoseconds(random() % 1000000000000));
    TokenBucket bucket(config, start);
    bucket.Spend(random() % (uint64_t{1} << (random() % 63)), start);
    bucket.Spend(config.size, start);
    const Time at = bucket.ReadyAt(start);
    if (at == kLast || at == start) {
      continue;
    }
    TokenBucket early = bucket;
    EXPECT_FALSE(early.Ready(at - nanoseconds(1)));
    EXPECT_TRUE(bucket.Ready(at));
  }
}

// Against a plain model: what passes in any order of questions is at most the bucket, the burst,
// the rate times the time, and one request.
TEST(TokenBucketTest, RandomUseNeverExceedsTheRate) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    const TokenBucketConfig config{.size = 1 + random() % 10000,
                                   .one_time_burst = random() % 5000,
                                   .refill_time = nanoseconds(1 + random() % 1000000)};
    TokenBucket bucket(config, At(seconds(1)));
    Time now = At(seconds(1));
    double moved = 0;
    uint64_t largest = 0;
    for (int i = 0; i < 500; ++i) {
      now += nanoseconds(random() % 5000);
      if (bucket.Ready(now)) {
        const uint64_t request = random() % 30000;
        largest = std::max(largest, request);
        bucket.Spend(request, now);
        moved += static_cast<double>(request);
      }
    }
    const double time = static_cast<double>((now - At(seconds(1))).count());
    const double rate =
        static_cast<double>(config.size) / static_cast<double>(config.refill_time.count());
    EXPECT_LE(moved,
              static_cast<double>(config.size + config.one_time_burst + largest) + rate * time + 1);
  }
}

}  // namespace
}  // namespace wyvern::devices
