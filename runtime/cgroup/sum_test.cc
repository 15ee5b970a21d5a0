#include "cgroup/sum.h"

#include <gtest/gtest.h>

#include <limits>

namespace wyvern::runtime {
namespace {

constexpr int64_t kMiB = 1 << 20;
constexpr SandboxOverhead kOverhead{.memory = 40 * kMiB, .cpu_quota = 10000};

TEST(SandboxLimitsTest, NoContainerCostsTheOverhead) {
  const Limits sum = SandboxLimits(kOverhead).Sum();
  EXPECT_EQ(sum.memory_limit, 40 * kMiB);
  EXPECT_EQ(sum.cpu_quota, 10000);
  EXPECT_EQ(sum.cpu_shares, 1024U);
}

TEST(SandboxLimitsTest, LimitsAddUpAndOneWithoutMakesItNone) {
  SandboxLimits sandbox(kOverhead);
  sandbox.Set("a", {.cpu_shares = 512,
                    .cpu_quota = 50000,
                    .memory_limit = 100 * kMiB,
                    .memory_swap = 150 * kMiB,
                    .memory_reservation = 5});
  sandbox.Set("b", {.cpu_quota = 20000,
                    .cpu_period = 50000,
                    .memory_limit = 60 * kMiB,
                    .memory_swap = 60 * kMiB});
  Limits sum = sandbox.Sum();
  EXPECT_EQ(sum.memory_limit, 200 * kMiB);
  EXPECT_EQ(sum.memory_swap, 250 * kMiB);
  EXPECT_EQ(sum.memory_reservation, 5);
  EXPECT_EQ(sum.cpu_quota, 100000);  // 50 000 + 40 000 + 10 000 of 100 000
  EXPECT_EQ(sum.cpu_period, 100000U);
  EXPECT_EQ(sum.cpu_shares, 512U + 1024U);
  sandbox.Set("c", {});
  sum = sandbox.Sum();
  EXPECT_EQ(sum.memory_limit, -1);
  EXPECT_EQ(sum.memory_swap, -1);
  EXPECT_EQ(sum.cpu_quota, -1);
  EXPECT_TRUE(CheckLimits(sum).has_value());
  sandbox.Remove("c");
  EXPECT_EQ(sandbox.Sum().memory_limit, 200 * kMiB);
}

TEST(SandboxLimitsTest, UpdateChangesWhatItGivesAndTheSum) {
  SandboxLimits sandbox(kOverhead);
  Limits limits{.cpu_quota = 50000, .cpu_period = 100000, .memory_limit = 100 * kMiB};
  limits = Merged(limits, {.memory_limit = 300 * kMiB});
  sandbox.Set("a", limits);
  EXPECT_EQ(sandbox.Sum().memory_limit, 340 * kMiB);
  EXPECT_EQ(sandbox.Sum().cpu_quota, 60000);
  sandbox.Set("a", Merged(limits, {.cpu_quota = -1, .memory_limit = 10 * kMiB}));
  EXPECT_EQ(sandbox.Sum().memory_limit, 50 * kMiB);
  EXPECT_EQ(sandbox.Sum().cpu_quota, -1);
}

TEST(SandboxLimitsTest, MergedKeepsWhatAnUpdateDoesNotGive) {
  const Limits before{.cpu_shares = 512,
                      .cpus = "0",
                      .memory_limit = 5,
                      .pids = 3,
                      .huge_pages = {{"2MB", 1}, {"1GB", 2}},
                      .io_weight = 10,
                      .io_weights = {{{8, 0}, 10}},
                      .io_limits = {{{8, 0}, {.read_bytes = 1, .write_bytes = 2}}},
                      .unified = {{"memory.high", "1"}}};
  const Limits after = Merged(before, {.cpus = "1",
                                       .huge_pages = {{"1GB", 3}},
                                       .io_weights = {{{8, 16}, 20}},
                                       .io_limits = {{{8, 0}, {.read_bytes = 0}}},
                                       .unified = {{"memory.high", "max"}}});
  EXPECT_EQ(after.cpu_shares, 512U);
  EXPECT_EQ(after.cpus, "1");
  EXPECT_EQ(after.memory_limit, 5);
  EXPECT_EQ(after.pids, 3);
  EXPECT_EQ(after.huge_pages, (std::map<std::string, uint64_t>{{"2MB", 1}, {"1GB", 3}}));
  EXPECT_EQ(after.io_weight, 10U);
  EXPECT_EQ(after.io_weights.size(), 2U);
  EXPECT_EQ(after.io_limits.at({8, 0}).read_bytes, 0U);
  EXPECT_EQ(after.io_limits.at({8, 0}).write_bytes, 2U);
  EXPECT_EQ(after.unified.at("memory.high"), "max");
}

TEST(SandboxLimitsTest, BurstsAddUpAndIdleIsWhatAllAre) {
  SandboxLimits sandbox(kOverhead);
  EXPECT_EQ(sandbox.Sum().cpu_idle, 0);
  sandbox.Set("a", {.cpu_quota = 50000, .cpu_burst = 20000, .cpu_idle = 1});
  sandbox.Set("b", {.cpu_quota = 20000, .cpu_period = 50000, .cpu_burst = 10000, .cpu_idle = 1});
  EXPECT_EQ(sandbox.Sum().cpu_burst, 40000U);
  EXPECT_EQ(sandbox.Sum().cpu_idle, 1);
  sandbox.Set("c", {});
  EXPECT_EQ(sandbox.Sum().cpu_burst, 0U);  // no quota, no burst
  EXPECT_EQ(sandbox.Sum().cpu_idle, 0);
  EXPECT_TRUE(CheckLimits(sandbox.Sum()).has_value());
}

TEST(SandboxLimitsTest, SetsAreJoinedWhereAllHaveOne) {
  SandboxLimits sandbox(kOverhead);
  sandbox.Set("a", {.cpus = "0-1,7", .memory_nodes = "0"});
  sandbox.Set("b", {.cpus = "2,4"});
  EXPECT_EQ(sandbox.Sum().cpus, "0-2,4,7");
  EXPECT_EQ(sandbox.Sum().memory_nodes, "");
  sandbox.Set("c", {});
  EXPECT_EQ(sandbox.Sum().cpus, "");
}

TEST(SandboxLimitsTest, ThrottlesAddUpPerDeviceAndAreTakenAway) {
  SandboxLimits sandbox(kOverhead);
  const BlockDeviceNumber disk{8, 0};
  sandbox.Set(
      "a",
      {.io_weight = 100,
       .io_weights = {{disk, 400}},
       .io_limits = {
           {disk,
            {.read_bytes = 5, .write_bytes = 6, .read_operations = {}, .write_operations = {}}}}});
  sandbox.Set(
      "b",
      {.io_weight = 300,
       .io_weights = {{disk, 200}},
       .io_limits = {
           {disk,
            {.read_bytes = 7, .write_bytes = {}, .read_operations = {}, .write_operations = {}}}}});
  const Limits sum = sandbox.Sum();
  EXPECT_EQ(sum.io_weight, 300U);
  EXPECT_EQ(sum.io_weights.at(disk), 400U);
  EXPECT_EQ(sum.io_limits.at(disk).read_bytes, 12U);
  EXPECT_EQ(sum.io_limits.at(disk).write_bytes, 0U);  // none: b may write as it likes
}

TEST(SandboxLimitsTest, NothingWraps) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  SandboxLimits sandbox(kOverhead);
  for (const char* id : {"a", "b", "c"}) {
    sandbox.Set(id, {.cpu_shares = ~uint64_t{0},
                     .cpu_quota = kMost,
                     .memory_limit = kMost,
                     .memory_swap = kMost,
                     .memory_reservation = kMost,
                     .io_limits = {{{8, 0},
                                    {.read_bytes = ~uint64_t{0},
                                     .write_bytes = {},
                                     .read_operations = {},
                                     .write_operations = {}}}}});
  }
  const Limits sum = sandbox.Sum();
  EXPECT_EQ(sum.memory_limit, kMost);
  EXPECT_EQ(sum.memory_swap, kMost);
  EXPECT_EQ(sum.memory_reservation, kMost);
  EXPECT_EQ(sum.cpu_quota, -1);
  EXPECT_EQ(sum.io_limits.at({8, 0}).read_bytes, 0U);
  EXPECT_TRUE(CheckLimits(sum).has_value());
}

}  // namespace
}  // namespace wyvern::runtime
