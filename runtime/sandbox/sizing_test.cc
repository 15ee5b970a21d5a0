#include "sandbox/sizing.h"

#include <gtest/gtest.h>

#include <limits>

namespace wyvern::runtime {
namespace {

constexpr uint64_t kMebibyte = 1ULL << 20U;
constexpr uint64_t kGibibyte = 1ULL << 30U;
constexpr GuestSize kBase = {1, 256 * kMebibyte};
constexpr HostSize kHost = {.processors = 16, .memory = 64 * kGibibyte};

Limits Cpu(int64_t quota, uint64_t period = 100000) {
  return {.cpu_quota = quota, .cpu_period = period};
}

Limits Memory(int64_t bytes) {
  return {.memory_limit = bytes};
}

Config::Sandbox Configured(uint32_t max_vcpus = 0, uint64_t max_memory = 0) {
  Config::Sandbox config;
  config.vcpus = kBase.vcpus;
  config.memory = kBase.memory;
  config.max_vcpus = max_vcpus;
  config.max_memory = max_memory;
  return config;
}

TEST(SizingTest, QuotasAddUpBeforeTheyAreRounded) {
  EXPECT_EQ(SizeFor(NeedOf({Cpu(50000), Cpu(50000)}), kBase).vcpus, 1U);
  EXPECT_EQ(SizeFor(NeedOf({Cpu(50000), Cpu(50001)}), kBase).vcpus, 2U);
  EXPECT_EQ(SizeFor(NeedOf({Cpu(30000, 10000), Cpu(50000)}), kBase).vcpus, 4U);
  EXPECT_EQ(SizeFor(NeedOf({Cpu(1, 3)}), kBase).vcpus, 1U);
}

TEST(SizingTest, ContainersWithoutLimitShareWhatTheConfigurationGives) {
  EXPECT_EQ(SizeFor(NeedOf({}), kBase), kBase);
  EXPECT_EQ(SizeFor(NeedOf({Limits{}, Limits{}}), kBase), kBase);
  EXPECT_EQ(SizeFor(NeedOf({Cpu(200000)}), {2, kBase.memory}).vcpus, 2U);
  EXPECT_EQ(SizeFor(NeedOf({Cpu(200000), Limits{}}), {2, kBase.memory}).vcpus, 4U);
  EXPECT_EQ(SizeFor(NeedOf({Memory(512 * kMebibyte)}), kBase).memory, 608 * kMebibyte);
  EXPECT_EQ(SizeFor(NeedOf({Memory(512 * kMebibyte), Limits{}}), kBase).memory, 864 * kMebibyte);
  EXPECT_EQ(SizeFor(NeedOf({Memory(-1), Cpu(-1)}), kBase), kBase);
}

TEST(SizingTest, SetOfCpusCountsWhereThereIsNoQuotaAndBoundsOne) {
  EXPECT_EQ(SizeFor(NeedOf({Limits{.cpus = "0-3,7"}}), kBase).vcpus, 5U);
  EXPECT_EQ(SizeFor(NeedOf({Limits{.cpus = ""}}), kBase).vcpus, 1U);
  EXPECT_EQ(SizeFor(NeedOf({Limits{.cpu_quota = 100000, .cpus = "0-3"}}), kBase).vcpus, 1U);
  EXPECT_EQ(SizeFor(NeedOf({Limits{.cpu_quota = 800000, .cpus = "0-3"}}), kBase).vcpus, 4U);
}

TEST(SizingTest, WhatLimitsNeedAloneIsNoMoreThanThat) {
  EXPECT_EQ(LeastFor(NeedOf({Limits{}})), (GuestSize{0, 0}));
  const Limits both = {.cpu_quota = 150000, .memory_limit = 100 * static_cast<int64_t>(kMebibyte)};
  EXPECT_EQ(LeastFor(NeedOf({both, Limits{}})), (GuestSize{2, 196 * kMebibyte}));
}

TEST(SizingTest, HugeLimitsDoNotWrap) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  const Limits huge = {.cpu_quota = kMost, .cpu_period = 1, .memory_limit = kMost};
  const GuestSize size = SizeFor(NeedOf({huge, huge, huge, Limits{}}), kBase);
  EXPECT_GT(size.vcpus, 1000000U);
  EXPECT_GT(size.memory, uint64_t{1} << 62U);
  EXPECT_EQ(size.memory % kMemoryGranule, 0U);
  const SizePlan plan = PlanSize(NeedOf({huge, huge, huge}), Configured(), kHost);
  EXPECT_EQ(plan.boot, (GuestSize{8, 64 * kGibibyte}));
  EXPECT_EQ(plan.most, (GuestSize{16, 64 * kGibibyte}));
}

TEST(SizingTest, SandboxBootsWithWhatIsKnownAndMayGrowToWhatTheHostHas) {
  const Limits known = {.cpu_quota = 250000, .memory_limit = 512 * static_cast<int64_t>(kMebibyte)};
  const SizePlan plan = PlanSize(NeedOf({known}), Configured(), kHost);
  EXPECT_EQ(plan.boot, (GuestSize{3, 608 * kMebibyte}));
  EXPECT_EQ(plan.most, (GuestSize{16, 32 * kGibibyte}));
  const SizePlan small = PlanSize(NeedOf({known}), Configured(), {2, 4 * kGibibyte + 12345});
  EXPECT_EQ(small.boot, (GuestSize{2, 608 * kMebibyte}));
  EXPECT_EQ(small.most, (GuestSize{2, 4 * kGibibyte}));
  const SizePlan large = PlanSize(NeedOf({}), Configured(), {256, 512 * kGibibyte});
  EXPECT_EQ(large.most, (GuestSize{32, 32 * kGibibyte}));
}

TEST(SizingTest, ConfigurationMaySayMoreOrLessThanTheHost) {
  const Limits known = {.cpu_quota = 1600000, .memory_limit = 8 * static_cast<int64_t>(kGibibyte)};
  const SizePlan less = PlanSize(NeedOf({known}), Configured(2, kGibibyte), kHost);
  EXPECT_EQ(less.boot, (GuestSize{2, kGibibyte}));
  EXPECT_EQ(less.most, (GuestSize{2, kGibibyte}));
  const SizePlan more = PlanSize(NeedOf({}), Configured(32, 128 * kGibibyte), {2, 4 * kGibibyte});
  EXPECT_EQ(more.boot, kBase);
  EXPECT_EQ(more.most, (GuestSize{32, 128 * kGibibyte}));
  // The least that the configuration gives is given.
  const SizePlan odd = PlanSize(NeedOf({}), Configured(0, 64 * kMebibyte), {1, 128 * kMebibyte});
  EXPECT_EQ(odd.boot, kBase);
  EXPECT_EQ(odd.most, kBase);
}

}  // namespace
}  // namespace wyvern::runtime
